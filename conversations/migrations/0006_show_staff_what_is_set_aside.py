"""Staff see the entries that are set aside, and may be allowed to put them back."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("conversations", "0005_fill_counts_and_callers")]

    operations = [
        migrations.CreateModel(
            name="QuarantinedMessage",
            fields=[],
            options={
                "verbose_name": "entry set aside",
                "verbose_name_plural": "entries set aside",
                "permissions": (
                    ("restore_chatmessage", "Can put entries set aside back into the memory"),
                ),
                "proxy": True,
                "default_permissions": ("view",),
                "indexes": [],
                "constraints": [],
            },
            bases=("conversations.chatmessage",),
        ),
        migrations.AlterField(
            model_name="chatmessage",
            name="quarantine_reason",
            field=models.CharField(
                blank=True,
                db_default="",
                help_text="A key of `history.REASONS`.",
                max_length=20,
            ),
        ),
    ]
