"""Whoever has a conversation on hold is not deleted: nothing changes in the database."""

import conversations.models.sessions
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("conversations", "0012_task_runs"),
    ]

    operations = [
        migrations.AlterField(
            model_name="chatsession",
            name="owner",
            field=models.ForeignKey(
                blank=True,
                db_index=False,
                help_text="Empty for a session that only code uses.",
                null=True,
                on_delete=conversations.models.sessions.cascade_unless_held,
                related_name="chat_sessions",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
    ]
