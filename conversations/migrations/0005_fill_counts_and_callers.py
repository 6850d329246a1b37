"""Fill what 0004 made room for: counters from the rows, ids from the items that hold them."""

import json

from django.db import OperationalError, migrations
from django.db.models import Count, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce

APPROVALS = ["mcp_approval_request", "mcp_approval_response"]


def fill(apps, schema_editor):
    sessions = apps.get_model("conversations", "ChatSession").objects
    messages = apps.get_model("conversations", "ChatMessage").objects

    def of_session(**conditions):
        rows = messages.filter(session=OuterRef("pk"), **conditions).order_by()
        counted = rows.values("session").annotate(count=Count("pk")).values("count")
        return Coalesce(Subquery(counted), 0)

    sessions.update(
        item_count=of_session(), quarantined_count=of_session(quarantined_at__isnull=False)
    )
    owners = Q(kind__in=APPROVALS) | Q(agent_item__contains='"caller"')
    rows = messages.filter(owners, agent_item__isnull=False).exclude(kind="message")
    for pk in list(rows.values_list("pk", flat=True)):
        try:
            kind, agent_item = messages.values_list("kind", "agent_item").get(pk=pk)
            item = json.loads(agent_item)
            caller = item.get("caller")
        except (ValueError, AttributeError, RecursionError, OperationalError):
            continue  # damaged: it is set aside when it is read
        changes = {}
        if kind in APPROVALS:
            name = item.get("id" if kind == APPROVALS[0] else "approval_request_id")
            changes["call_id"] = name
        if isinstance(caller, dict) and caller.get("type") == "program":
            changes["caller_id"] = caller.get("caller_id")
        changes = {k: v[:200] for k, v in changes.items() if isinstance(v, str) and "\0" not in v}
        if changes:
            messages.filter(pk=pk).update(**changes)


class Migration(migrations.Migration):
    dependencies = [("conversations", "0004_count_what_is_remembered")]

    operations = [migrations.RunPython(fill, migrations.RunPython.noop, elidable=True)]
