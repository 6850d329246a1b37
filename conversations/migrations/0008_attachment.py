"""Files that people attach to their messages; their bytes are in a storage, not in this table."""

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models

import conversations.ids


class Migration(migrations.Migration):
    dependencies = [
        ("conversations", "0007_chatturn_input_item"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Attachment",
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
                    "message_id",
                    models.UUIDField(
                        blank=True,
                        help_text="The message it was sent with, which may still wait.",
                        null=True,
                    ),
                ),
                ("name", models.CharField(blank=True, max_length=255)),
                ("mime_type", models.CharField(blank=True, max_length=100)),
                (
                    "size",
                    models.PositiveBigIntegerField(
                        default=0, help_text="In bytes, as announced."
                    ),
                ),
                (
                    "stored_size",
                    models.PositiveBigIntegerField(
                        default=0, help_text="In bytes, as received."
                    ),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("pending", "Pending"),
                            ("ready", "Ready"),
                            ("removed", "Removed"),
                        ],
                        default="pending",
                        max_length=10,
                    ),
                ),
                (
                    "storage_name",
                    models.CharField(
                        blank=True,
                        help_text="Where its bytes are, or are being written.",
                        max_length=255,
                    ),
                ),
                (
                    "created_at",
                    models.DateTimeField(default=django.utils.timezone.now, editable=False),
                ),
                ("attached_at", models.DateTimeField(blank=True, null=True)),
                (
                    "owner",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="chat_attachments",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "session",
                    models.ForeignKey(
                        blank=True,
                        help_text="The conversation it was used in.",
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="attachments",
                        to="conversations.chatsession",
                    ),
                ),
            ],
            options={
                "indexes": [
                    models.Index(
                        condition=models.Q(("session__isnull", True)),
                        fields=["created_at"],
                        name="chat_attachment_unused",
                    ),
                    models.Index(
                        condition=models.Q(("status", "removed")),
                        fields=["id"],
                        name="chat_attachment_removed",
                    ),
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("status__in", ["pending", "ready", "removed"])),
                        name="chat_attachment_known_status",
                    )
                ],
            },
        ),
    ]
