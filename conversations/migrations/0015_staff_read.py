"""Who of the staff has read which conversation: rows are added, and go with it, nothing else."""

from typing import Any

import conversations.ids
import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models

TABLE = "conversations_staffread"
REFUSAL = "what was read is not rewritten"
SQLITE = [
    f"CREATE TRIGGER {TABLE}_update BEFORE UPDATE ON {TABLE}"
    f" BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END"
]
POSTGRESQL = [
    f"CREATE FUNCTION {TABLE}_refuse() RETURNS trigger LANGUAGE plpgsql"
    f" AS $$ BEGIN RAISE EXCEPTION '{REFUSAL}'; END $$",
    f"CREATE TRIGGER {TABLE}_update BEFORE UPDATE ON {TABLE}"
    f" FOR EACH ROW EXECUTE FUNCTION {TABLE}_refuse()",
]


def guard(apps: Any, schema_editor: Any) -> None:
    on_sqlite = schema_editor.connection.vendor == "sqlite"
    for statement in SQLITE if on_sqlite else POSTGRESQL:
        schema_editor.execute(statement)


def unguard(apps: Any, schema_editor: Any) -> None:
    on_sqlite = schema_editor.connection.vendor == "sqlite"
    of_table = "" if on_sqlite else f" ON {TABLE}"
    schema_editor.execute(f"DROP TRIGGER IF EXISTS {TABLE}_update{of_table}")
    if not on_sqlite:
        schema_editor.execute(f"DROP FUNCTION IF EXISTS {TABLE}_refuse()")


class Migration(migrations.Migration):
    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("conversations", "0014_staff_rights"),
    ]

    operations = [
        migrations.CreateModel(
            name="StaffRead",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=conversations.ids.new_id,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                (
                    "how",
                    models.CharField(
                        choices=[
                            ("page", "Transcript"),
                            ("model", "As the model saw it"),
                            ("export", "Export"),
                            ("search", "Search hit"),
                        ],
                        max_length=10,
                    ),
                ),
                (
                    "read_at",
                    models.DateTimeField(default=django.utils.timezone.now, editable=False),
                ),
                (
                    "reader",
                    models.ForeignKey(
                        db_constraint=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "session",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="reads",
                        to="conversations.chatsession",
                    ),
                ),
            ],
            options={
                "default_permissions": ("view",),
                "indexes": [
                    models.Index(fields=["session", "id"], name="chat_staff_read_of_session")
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("how__in", ["page", "model", "export", "search"])),
                        name="chat_staff_read_known_how",
                    )
                ],
            },
        ),
        migrations.RunPython(guard, unguard),
    ]
