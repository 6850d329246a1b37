"""Rights of their own for reading what was said, and for what people do not see of it."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("conversations", "0013_keep_owners_of_held_sessions")]

    operations = [
        migrations.AlterModelOptions(
            name="chatsession",
            options={
                "verbose_name": "conversation",
                "permissions": (
                    ("view_transcript", "Can read what was said in conversations"),
                    (
                        "view_hidden_content",
                        "Can read what people do not see of their conversations",
                    ),
                )
            },
        ),
    ]
