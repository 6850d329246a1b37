"""What the staff's list of conversations is sorted, filtered and flagged by."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("conversations", "0015_staff_read")]

    operations = [
        migrations.AddIndex(
            model_name="chatsession",
            index=models.Index(
                condition=models.Q(("status", "active"), _negated=True),
                fields=["last_active_at", "id"],
                name="chat_session_not_active",
            ),
        ),
        migrations.AddIndex(
            model_name="chatsession",
            index=models.Index(
                condition=models.Q(("quarantined_count__gt", 0)),
                fields=["last_active_at", "id"],
                name="chat_session_damaged",
            ),
        ),
        migrations.AddIndex(
            model_name="chatturn",
            index=models.Index(
                condition=models.Q(
                    ("status", "failed"),
                    ("status", "interrupted"),
                    ("warning__gt", ""),
                    _connector="OR",
                ),
                fields=["session"],
                name="chat_turn_in_trouble",
            ),
        ),
        migrations.AddField(
            model_name="feedback",
            name="session",
            field=models.ForeignKey(
                db_index=False,
                help_text="The message's, so that a list of conversations can tell.",
                null=True,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="+",
                to="conversations.chatsession",
            ),
        ),
        migrations.AddIndex(
            model_name="feedback",
            index=models.Index(fields=["session", "kind"], name="chat_feedback_of_session"),
        ),
    ]
