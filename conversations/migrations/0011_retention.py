"""Cleanups by plan, holds on all that a person has, and sessions by when they were active."""

import conversations.ids
import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("conversations", "0010_ledger"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Cleanup",
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
                    "status",
                    models.CharField(
                        choices=[("planned", "Planned"), ("running", "Running"), ("done", "Done")],
                        default="planned",
                        max_length=10,
                    ),
                ),
                ("actor", models.CharField(help_text="An actor of the ledger.", max_length=64)),
                ("planned_at", models.DateTimeField()),
                (
                    "cutoff",
                    models.DateTimeField(
                        help_text="Who was last active before was idle for too long."
                    ),
                ),
                ("idle_seconds", models.BigIntegerField()),
                ("planned_sessions", models.BigIntegerField(default=0)),
                ("planned_messages", models.BigIntegerField(default=0)),
                ("planned_attachments", models.BigIntegerField(default=0)),
                ("planned_bytes", models.BigIntegerField(default=0)),
                ("oldest", models.DateTimeField(null=True)),
                ("newest", models.DateTimeField(null=True)),
                ("held", models.BigIntegerField(default=0)),
                ("busy", models.BigIntegerField(default=0)),
                ("process", models.CharField(blank=True, max_length=64)),
                (
                    "seen",
                    models.BigIntegerField(
                        default=0,
                        help_text="Its last sign of life, in milliseconds of the lease clock.",
                    ),
                ),
                (
                    "fence",
                    models.BigIntegerField(
                        default=0, help_text="Grows when another process takes over."
                    ),
                ),
                ("started_at", models.DateTimeField(null=True)),
                ("finished_at", models.DateTimeField(null=True)),
                (
                    "position",
                    models.BigIntegerField(
                        default=0,
                        help_text="How many of the planned sessions have been looked at again.",
                    ),
                ),
                ("sessions", models.BigIntegerField(default=0)),
                ("messages", models.BigIntegerField(default=0)),
                ("attachments", models.BigIntegerField(default=0)),
                ("byte_count", models.BigIntegerField(default=0)),
                ("milliseconds", models.BigIntegerField(default=0)),
                ("awake", models.BigIntegerField(default=0)),
                ("now_held", models.BigIntegerField(default=0)),
                ("now_busy", models.BigIntegerField(default=0)),
                ("failed", models.BigIntegerField(default=0)),
                ("errors", models.TextField(default="{}")),
                ("ledger_number", models.BigIntegerField(null=True)),
            ],
            options={
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="CleanupPage",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "cleanup_id",
                        "number",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                (
                    "cleanup",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="pages",
                        to="conversations.cleanup",
                    ),
                ),
                ("number", models.IntegerField()),
                (
                    "sessions",
                    models.BinaryField(help_text="16 bytes of id and 8 of microseconds each."),
                ),
            ],
            options={
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="UserHold",
            fields=[
                (
                    "user",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        primary_key=True,
                        related_name="chat_hold",
                        serialize=False,
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                ("reason", models.CharField(max_length=500)),
                ("placed_by", models.CharField(help_text="An actor of the ledger.", max_length=64)),
                ("at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
            ],
            options={
                "default_permissions": ("view",),
            },
        ),
        migrations.AddIndex(
            model_name="chatsession",
            index=models.Index(fields=["last_active_at", "id"], name="chat_session_idle"),
        ),
        migrations.AddIndex(
            model_name="cleanup",
            index=models.Index(fields=["finished_at"], name="chat_cleanup_finished"),
        ),
        migrations.AddConstraint(
            model_name="cleanup",
            constraint=models.UniqueConstraint(
                condition=models.Q(("status", "running")),
                fields=("status",),
                name="chat_cleanup_one_running",
            ),
        ),
        migrations.AddConstraint(
            model_name="cleanup",
            constraint=models.CheckConstraint(
                condition=models.Q(("status__in", ["planned", "running", "done"])),
                name="chat_cleanup_known_status",
            ),
        ),
    ]
