"""The ledger of removals, and what keeps its rows as they are, whoever writes SQL."""

from typing import Any

from django.db import migrations, models


TABLE = "conversations_ledgerentry"
REFUSAL = "the ledger only grows"
SQLITE = [
    f"CREATE TRIGGER conversations_ledger_{event} BEFORE {event.upper()} ON {TABLE}"
    f" BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END"
    for event in ("update", "delete")
]
POSTGRESQL = [
    "CREATE FUNCTION conversations_ledger_refuse() RETURNS trigger LANGUAGE plpgsql"
    f" AS $$ BEGIN RAISE EXCEPTION '{REFUSAL}'; END $$",
    *(
        f"CREATE TRIGGER conversations_ledger_{event} BEFORE {event.upper()} ON {TABLE}"
        " FOR EACH ROW EXECUTE FUNCTION conversations_ledger_refuse()"
        for event in ("update", "delete")
    ),
]


def guard(apps: Any, schema_editor: Any) -> None:
    on_sqlite = schema_editor.connection.vendor == "sqlite"
    for statement in SQLITE if on_sqlite else POSTGRESQL:
        schema_editor.execute(statement)


def unguard(apps: Any, schema_editor: Any) -> None:
    on_sqlite = schema_editor.connection.vendor == "sqlite"
    for event in ("update", "delete"):
        of_table = "" if on_sqlite else f" ON {TABLE}"
        schema_editor.execute(f"DROP TRIGGER IF EXISTS conversations_ledger_{event}{of_table}")
    if not on_sqlite:
        schema_editor.execute("DROP FUNCTION IF EXISTS conversations_ledger_refuse()")


class Migration(migrations.Migration):
    dependencies = [
        ("conversations", "0009_feedback"),
    ]

    operations = [
        migrations.CreateModel(
            name="LedgerEntry",
            fields=[
                (
                    "number",
                    models.BigIntegerField(
                        help_text="From 1 on, without a gap.", primary_key=True, serialize=False
                    ),
                ),
                ("at", models.DateTimeField()),
                (
                    "actor",
                    models.CharField(
                        help_text='"schedule", "command", "user", "code" or "staff:<key>".',
                        max_length=64,
                    ),
                ),
                (
                    "action",
                    models.CharField(help_text="A word of `store.ledger.ACTIONS`.", max_length=32),
                ),
                ("subject", models.CharField(blank=True, max_length=64)),
                (
                    "reason",
                    models.CharField(
                        blank=True, help_text="As given by who did it.", max_length=500
                    ),
                ),
                (
                    "policy",
                    models.CharField(
                        blank=True, help_text="The rule that was applied.", max_length=100
                    ),
                ),
                ("cutoff", models.DateTimeField(blank=True, null=True)),
                ("counts", models.TextField(help_text="JSON: how many rows of which kind.")),
                ("byte_count", models.BigIntegerField(default=0)),
                ("milliseconds", models.BigIntegerField(default=0)),
                (
                    "errors",
                    models.TextField(
                        help_text="JSON: which kinds of errors, and how many of each."
                    ),
                ),
                ("previous_hash", models.CharField(max_length=64)),
                ("hash", models.CharField(max_length=64)),
            ],
            options={
                "verbose_name_plural": "ledger entries",
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="OpenRemoval",
            fields=[
                (
                    "id",
                    models.CharField(
                        help_text="Action and actor.",
                        max_length=100,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("action", models.CharField(max_length=32)),
                ("actor", models.CharField(max_length=64)),
                ("counts", models.TextField()),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.RunPython(guard, unguard),
    ]
