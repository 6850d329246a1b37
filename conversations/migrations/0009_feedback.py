"""What people think of an answer; and what ChatKit's thread holds beside our columns."""

import conversations.ids
import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("conversations", "0008_attachment"),
    ]

    operations = [
        migrations.AddField(
            model_name="chatsession",
            name="thread_extras",
            field=models.TextField(
                blank=True,
                help_text="JSON: what ChatKit's thread has that no other column holds.",
                null=True,
            ),
        ),
        migrations.CreateModel(
            name="Feedback",
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
                    "kind",
                    models.CharField(
                        choices=[("positive", "Positive"), ("negative", "Negative")],
                        max_length=10,
                    ),
                ),
                ("comment", models.TextField(blank=True)),
                (
                    "created_at",
                    models.DateTimeField(default=django.utils.timezone.now, editable=False),
                ),
                (
                    "updated_at",
                    models.DateTimeField(default=django.utils.timezone.now, editable=False),
                ),
                (
                    "message",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="feedback",
                        to="conversations.chatmessage",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "feedback",
                "default_permissions": ("view",),
                "indexes": [
                    models.Index(
                        fields=["-updated_at", "id"], name="chat_feedback_latest"
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("message", "user"), name="chat_feedback_once"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("kind__in", ["positive", "negative"])),
                        name="chat_feedback_known_kind",
                    ),
                ],
            },
        ),
    ]
