"""What a stream has told is recorded, so that it can be picked up again; a stop is a request.

The recorded events take the place of the checkpoint: what an old one held becomes the first record.
"""

import json

import django.db.models.deletion
from django.db import migrations, models


def record_checkpoints(apps, schema_editor):
    records = apps.get_model("conversations", "RecordedEvents").objects
    for turn in apps.get_model("conversations", "ChatTurn").objects.exclude(partial=""):
        records.create(
            turn_id=turn.id, first_number=1, last_number=1, events=json.dumps([turn.partial])
        )


class Migration(migrations.Migration):
    dependencies = [("conversations", "0002_measure_leases_by_a_steady_clock")]

    operations = [
        migrations.CreateModel(
            name="RecordedEvents",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "turn_id",
                        "first_number",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("first_number", models.PositiveIntegerField()),
                ("last_number", models.PositiveIntegerField()),
                (
                    "events",
                    models.TextField(help_text="JSON, as `events.encode_events` writes it."),
                ),
                (
                    "turn",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="recorded_events",
                        to="conversations.chatturn",
                    ),
                ),
            ],
        ),
        migrations.RunPython(record_checkpoints, migrations.RunPython.noop),
        migrations.RemoveField(model_name="chatturn", name="partial"),
        migrations.AddField(
            model_name="chatturn",
            name="event_count",
            field=models.PositiveIntegerField(
                default=0, help_text="The number of the closing event, once there is one."
            ),
        ),
        migrations.AddField(
            model_name="chatturn",
            name="stop_requested_at",
            field=models.DateTimeField(null=True),
        ),
    ]
