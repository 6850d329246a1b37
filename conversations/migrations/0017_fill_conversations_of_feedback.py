"""Feedback that was there before learns which conversation it is about."""

from django.db import migrations

FILL = (
    "UPDATE conversations_feedback SET session_id = (SELECT session_id"
    " FROM conversations_chatmessage message WHERE message.id = message_id)"
    " WHERE session_id IS NULL"
)


class Migration(migrations.Migration):
    dependencies = [("conversations", "0016_staff_list")]

    operations = [migrations.RunSQL(FILL, migrations.RunSQL.noop)]
