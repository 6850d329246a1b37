"""What runs by itself, as staff see it: everything to read, nothing to change or to run."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.test import Client
from django.utils import timezone
from django_q.models import OrmQ, Schedule, Task

from conversations import tasks
from conversations.admin import worker
from conversations.models import TaskRun
from conversations.schedules import sync_schedules
from conversations.tests import factories

pytestmark = pytest.mark.django_db(transaction=True)

PAGES = ("django_q/schedule", "django_q/task", "conversations/taskrun")


class Bomb:
    """A pickle that does something when it is read."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("it was unpickled",))

    def __deepcopy__(self, memo: Any) -> Bomb:
        return self


@pytest.fixture
def staff() -> Client:
    browser = Client()
    browser.force_login(factories.UserFactory(is_staff=True, is_superuser=True))
    return browser


def ended(**values: Any) -> Task:
    now = timezone.now()
    common = {"name": "n", "started": now, "stopped": now, "args": Bomb(), "result": Bomb()}
    row = Task(**common | {"id": "1" * 32, "func": "conversations.tasks.heartbeat"} | values)
    row.save()
    return row


@pytest.fixture
def rows() -> dict[str, Any]:
    """One row of each page."""
    sync_schedules(now=timezone.now())
    tasks.heartbeat()
    schedule = Schedule.objects.get(name="conversations.heartbeat")
    return {
        "django_q/schedule": schedule.pk,
        "django_q/task": ended().pk,
        "conversations/taskrun": "heartbeat",
    }


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_read_and_nothing_in_it_is_changed(staff: Client, rows: Any, page: str) -> None:
    before = [list(model.objects.values_list("pk")) for model in (Schedule, TaskRun)]
    listed = staff.get(f"/admin/{page}/")
    assert listed.status_code == 200
    assert "heartbeat" in listed.content.decode()
    one = f"/admin/{page}/{rows[page]}"
    shown = staff.get(f"{one}/change/")
    assert shown.status_code == 200
    assert 'name="_save"' not in shown.content.decode()
    assert staff.get(f"/admin/{page}/add/").status_code == 403
    assert staff.post(f"{one}/change/", {"func": "os.system"}).status_code == 403
    assert staff.post(f"{one}/delete/", {"post": "yes"}).status_code == 403
    actions = {"action": "resubmit_task", "_selected_action": [str(rows[page])]}
    staff.post(f"/admin/{page}/", actions)
    actions["action"] = "delete_selected"
    staff.post(f"/admin/{page}/", actions)
    assert [list(model.objects.values_list("pk")) for model in (Schedule, TaskRun)] == before
    assert Task.objects.defer("args", "kwargs", "result").count() == 1
    assert not OrmQ.objects.exists()


def test_what_others_run_is_not_shown(staff: Client, rows: Any) -> None:
    Schedule.objects.create(name="nightly", func="shop.tasks.count")
    ended(id="2" * 32, func="shop.tasks.count")
    for page in ("schedule", "task"):
        assert "shop.tasks.count" not in staff.get(f"/admin/django_q/{page}/").content.decode()
    foreign = f"/admin/django_q/task/{'2' * 32}/change/"
    assert staff.get(foreign).status_code == 302


@pytest.mark.parametrize("page", PAGES)
def test_who_may_not_view_it_does_not_see_it(rows: Any, page: str) -> None:
    browser = Client()
    person = factories.UserFactory(is_staff=True)
    browser.force_login(person)
    assert browser.get(f"/admin/{page}/").status_code == 403
    label, model = page.split("/")
    person.user_permissions.add(
        Permission.objects.get(content_type__app_label=label, codename=f"view_{model}")
    )
    assert browser.get(f"/admin/{page}/").status_code == 200


@pytest.mark.parametrize("model", ["success", "failure", "ormq"])
def test_the_queues_other_pages_are_not_served(staff: Client, model: str) -> None:
    assert staff.get(f"/admin/django_q/{model}/").status_code == 404


def test_our_pages_stay_whoever_registers_last() -> None:
    before = dict(admin.site._registry)
    worker.take_over_queue_pages()  # as if conversations stood before django_q
    assert before.keys() == admin.site._registry.keys()
    pages = {m.__name__: type(page) for m, page in admin.site._registry.items()}
    assert (pages["Schedule"], pages["Task"]) == (worker.ScheduleAdmin, worker.TaskResultAdmin)
