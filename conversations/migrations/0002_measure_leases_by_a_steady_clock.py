"""Leases move to a clock that no change of the wall clock disturbs.

Turns that were live when the site stopped get a lease that has run out: the next process closes
them, as after a crash.
"""

from django.db import migrations, models
from django.db.models import Q


def end_old_leases(apps, schema_editor):
    turns = apps.get_model("conversations", "ChatTurn").objects
    turns.filter(status__in=["queued", "running"]).update(lease_until=0, lease_owner="")


class Migration(migrations.Migration):
    dependencies = [("conversations", "0001_core")]

    operations = [
        migrations.AddField(
            model_name="chatturn",
            name="lease_until",
            field=models.BigIntegerField(
                help_text="In milliseconds of the lease clock, which is not the wall clock.",
                null=True,
            ),
        ),
        migrations.RunPython(end_old_leases, migrations.RunPython.noop),
        migrations.RemoveConstraint(model_name="chatturn", name="chat_turn_running_has_lease"),
        migrations.AddConstraint(
            model_name="chatturn",
            constraint=models.CheckConstraint(
                condition=~Q(status="running") | Q(lease_until__isnull=False),
                name="chat_turn_running_has_lease",
            ),
        ),
        migrations.RemoveField(model_name="chatturn", name="lease_expires_at"),
    ]
