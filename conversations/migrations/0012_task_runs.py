"""What background tasks did last, and what the worker counted."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("conversations", "0011_retention"),
    ]

    operations = [
        migrations.CreateModel(
            name="Measurement",
            fields=[
                ("name", models.CharField(max_length=100, primary_key=True, serialize=False)),
                ("value", models.BigIntegerField()),
                ("measured_at", models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name="TaskRun",
            fields=[
                ("name", models.CharField(max_length=100, primary_key=True, serialize=False)),
                (
                    "since",
                    models.DateTimeField(help_text="When it was scheduled first, or ran first."),
                ),
                ("beat_at", models.DateTimeField(help_text="Its last sign of life.", null=True)),
                ("started_at", models.DateTimeField(null=True)),
                ("succeeded_at", models.DateTimeField(null=True)),
                ("failed_at", models.DateTimeField(null=True)),
                ("run_count", models.PositiveBigIntegerField(default=0)),
                ("failure_count", models.PositiveBigIntegerField(default=0)),
                (
                    "amount",
                    models.PositiveBigIntegerField(
                        default=0,
                        help_text="The sum of what its runs returned: turns closed, entries removed.",
                    ),
                ),
                (
                    "seconds",
                    models.FloatField(default=0, help_text="How long all its runs took."),
                ),
                (
                    "error",
                    models.CharField(
                        blank=True,
                        help_text="Which errors the last failure was, without words.",
                        max_length=500,
                    ),
                ),
            ],
            options={"verbose_name": "background task"},
        ),
    ]
