"""Room for what is counted of a memory, and for what keeps calls and programs together."""

from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("conversations", "0003_record_events"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name="chatmessage",
            name="caller_id",
            field=models.CharField(
                blank=True,
                db_default="",
                help_text="The program that made the call.",
                max_length=200,
            ),
        ),
        migrations.AddField(
            model_name="chatmessage",
            name="forgotten_at",
            field=models.DateTimeField(
                blank=True,
                help_text="When the model forgot a row that a hold keeps as it is.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="chatmessage",
            name="quarantine_reason",
            field=models.CharField(blank=True, db_default="", max_length=20),
        ),
        migrations.AddField(
            model_name="chatsession",
            name="item_count",
            field=models.PositiveIntegerField(
                db_default=0, default=0, help_text="Entries of the log, hidden ones too."
            ),
        ),
        migrations.AddField(
            model_name="chatsession",
            name="pruned_count",
            field=models.PositiveIntegerField(
                db_default=0,
                default=0,
                help_text="Entries that were taken from the memory for its size.",
            ),
        ),
        migrations.AddField(
            model_name="chatsession",
            name="quarantined_count",
            field=models.PositiveIntegerField(
                db_default=0,
                default=0,
                help_text="Entries that are set aside because they are damaged.",
            ),
        ),
        migrations.AlterField(
            model_name="chatmessage",
            name="call_id",
            field=models.CharField(
                blank=True,
                help_text="By which a call and its output, a request and its answer, find each other.",
                max_length=200,
            ),
        ),
        migrations.AlterField(
            model_name="chatmessage",
            name="quarantined_at",
            field=models.DateTimeField(
                blank=True, help_text="When the row was found damaged and set aside.", null=True
            ),
        ),
        migrations.AlterField(
            model_name="chatsession",
            name="message_count",
            field=models.PositiveIntegerField(
                default=0, help_text="Messages people see in the transcript."
            ),
        ),
        migrations.AlterField(
            model_name="chatsession",
            name="remembered_count",
            field=models.PositiveIntegerField(
                default=0, help_text="Entries the model is given on the next turn."
            ),
        ),
        migrations.AddIndex(
            model_name="chatmessage",
            index=models.Index(
                condition=models.Q(("quarantined_at__isnull", False)),
                fields=["quarantined_at"],
                name="chat_message_quarantined",
            ),
        ),
        migrations.AddIndex(
            model_name="chatsession",
            index=models.Index(
                condition=models.Q(("remembered_count__gt", 200)),
                fields=["id"],
                name="chat_session_over_budget",
            ),
        ),
    ]
