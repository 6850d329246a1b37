"""Erasing a person: on every surface, down to the bytes, in any number of runs."""

from __future__ import annotations

import random
from typing import Any

import pytest
from django.apps import apps
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.db import IntegrityError
from django.test import override_settings
from django.utils import timezone
from django_q.models import OrmQ
from django_q.models import Task as Result
from django_q.signing import SignedPackage

from conversations import attachments, erasure, lanes, reclaim, retention, sweeps, traces
from conversations.errors import StoreBusy, ThreadHeld
from conversations.ids import agent_session_id, new_id
from conversations.models import (
    Attachment,
    ChatMessage,
    ChatSession,
    ChatTurn,
    Feedback,
    OpenRemoval,
    Throttle,
    UserHold,
)
from conversations.signals import erasing_user
from conversations.store import erasing, ledger
from conversations.tests import factories
from conversations.tests.erasure_helpers import (
    PRIVATE,
    PUBLIC,
    Person,
    count,
    signed_in,
    unnamed,
)
from conversations.tests.ledger_helpers import entries
from conversations.tests.sweeps_helpers import remember, tables

pytestmark = pytest.mark.django_db(transaction=True)

NOW = timezone.now()


@pytest.fixture
def people() -> tuple[Person, Person]:
    """Two people, each with a word of their own everywhere."""
    first, second = Person(), Person()
    first.settle(second.session)
    second.settle(first.session)
    return first, second


def erase(person: Any, scope: Any = "account") -> Any:
    user_id = getattr(person, "pk", None) or person.user.pk
    receipt, is_gone = erasure.erase_user(
        user_id=user_id, actor=ledger.COMMAND, now=NOW, scope=scope
    )
    assert is_gone
    return receipt


def is_whole() -> bool:
    return lanes.look_up(ledger.verify).is_whole


# --- Gone means gone -----------------------------------------------------------------------


def test_the_words_that_are_planted_are_in_every_column(people):
    for person in people:
        assert unnamed(person) == []
    ours = {model.__name__ for name in ("conversations", "todo") for model in _models(name)}
    assert ours == {model.__name__ for model in PRIVATE} | PUBLIC


def _models(name: str) -> list[Any]:
    return list(apps.get_app_config(name).get_models())


def test_nothing_of_the_erased_is_left_and_everything_of_the_other(people):
    gone, other = people
    reclaim.reclaim_space()
    before = count(other.word)
    assert count(gone.word) > 30
    erase(gone)
    assert count(gone.word) == 0
    # But for what they thought of what the other had said.
    assert count(other.word) == before - 1
    assert (signed_in(gone), signed_in(other)) == (0, 1)
    (waiting,) = OrmQ.objects.all()
    assert waiting.task["args"] == (other.session.id,)
    assert Result.objects.get().name == other.word
    assert unnamed(other) == []


def test_the_account_may_stay_with_nothing_in_it(people):
    gone, other = people
    erase(gone, "sign_ins")
    users = get_user_model()
    user = users.objects.get(pk=gone.user.pk)
    assert user.is_active
    users.objects.filter(pk=user.pk).update(username="u", email="", first_name="", last_name="")
    reclaim.reclaim_space()
    assert count(gone.word) == 0
    assert signed_in(gone) == 0
    assert unnamed(other) == []


def test_of_conversations_alone_sign_ins_stay(people):
    gone, _ = people
    receipt = erase(gone, "conversations")
    assert signed_in(gone) == 1
    assert gone.user.access_tokens.count() == 1
    assert not ChatSession.objects.filter(owner=gone.user).exists()
    assert not {"access_tokens", "browser_sessions", "accounts"} & receipt.counts.keys()


def say(session: Any) -> str:
    """A word that is in one conversation alone."""
    word = f"canary-{new_id().hex}"
    ChatMessage.objects.create(
        session=session, position=1, kind="message", role="user", text=word, shown=True
    )
    ChatSession.objects.filter(id=session.id).update(title=word, last_active_at="2020-01-01T00:00Z")
    assert count(word) > 0
    return word


def test_after_a_cleanup_nothing_is_left_in_the_file(session):
    word = say(session)
    assert retention.cleanup(now=NOW).sessions == 1
    assert count(word) == 0


def test_what_anybody_deletes_is_gone_with_the_next_sweep(session):
    word = say(session)
    ChatSession.objects.all().delete()
    sweeps.sweep_orphans(now=NOW)
    assert count(word) == 0


def test_a_cleanup_leaves_nothing_either(people):
    gone, other = people
    for row in (gone, other):
        Feedback.objects.filter(user=row.user).exclude(message__session__owner=row.user).delete()
    idle = gone.speak()
    words = count(gone.word)
    ChatSession.objects.filter(owner=gone.user).update(last_active_at=NOW.replace(year=2020))
    reclaim.reclaim_space()
    kept = count(other.word)
    receipt = retention.cleanup(now=NOW)
    assert receipt.sessions == 2
    assert not ChatSession.objects.filter(id=idle.id).exists()
    erase_besides(gone)
    reclaim.reclaim_space()
    assert count(gone.word) == 0 < words
    assert count(other.word) == kept


def erase_besides(person: Person) -> None:
    """What no cleanup is for: the account, and what belongs to no conversation."""
    LogEntry.objects.filter(object_repr=person.word).delete()
    Result.objects.filter(name=person.word).delete()
    person.user.access_tokens.all().delete()
    apps.get_model("todo", "Task").objects.filter(owner=person.user).delete()
    Attachment.objects.filter(owner=person.user).update(owner=None)
    gone = Attachment.objects.filter(owner=None)
    gone.update(status="removed", name="", mime_type="")
    attachments.erase_removed()
    get_user_model().objects.filter(pk=person.user.pk).delete()


# --- Receipts ------------------------------------------------------------------------------


def test_the_receipt_counts_all_of_it_and_is_in_the_ledger(people):
    gone, _ = people
    size = 4 * len(gone.word) + len('{"content": ""}') + len('{"type": "widget", "copy_text": ""}')
    receipt = erase(gone)
    assert receipt.counts == {
        "accounts": 1,
        "access_tokens": 1,
        "attachments": 2,
        "browser_sessions": 1,
        "bytes": size + 20 * len(gone.word),
        "feedback": 3,
        "log_entries": 2,
        "messages": 1,
        "queue": 2,
        "sessions": 1,
        "tasks": 1,
        "turns": 1,
    }
    (entry,) = entries()
    counts = dict(receipt.counts)
    assert entry == {
        "actor": "command",
        "action": "erase",
        "subject": ledger.of_user(gone.user.pk),
        "policy": "account",
        "byte_count": counts.pop("bytes"),
        "counts": counts,
    }
    assert receipt.subject == entry["subject"]
    assert receipt.ledger_number == 1
    assert is_whole()
    assert not OpenRemoval.objects.exists()


def test_a_preview_counts_the_same_and_changes_nothing(people):
    gone, _ = people
    before = tables()
    for scope in ("conversations", "sign_ins", "account"):
        expected = erasure.preview(user_id=gone.user.pk, now=NOW, scope=scope)
        assert expected.ledger_number is None
    assert tables() == before
    assert signed_in(gone) == 1
    assert apps.get_model("todo", "Task").objects.count() == 2
    assert erase(gone).counts == expected.counts


def test_erased_again_there_is_nothing_and_no_row(user):
    for _ in range(2):
        receipt = erase(user, "conversations")
        assert (receipt.counts, receipt.ledger_number) == ({}, None)
        assert receipt.finished
    assert entries() == []


def test_what_other_apps_keep_is_erased_with_it_or_nothing_is(session):
    remember(session, 2)

    def fail(**_: Any) -> None:
        raise ZeroDivisionError

    erasing_user.connect(fail)
    try:
        with pytest.raises(ZeroDivisionError):
            erase(session.owner)
    finally:
        erasing_user.disconnect(fail)
    assert session.messages.count() == 2
    assert entries() == []


# --- Many rows, in many runs ---------------------------------------------------------------


def test_a_transaction_is_never_large(user, monkeypatch):
    monkeypatch.setattr(erasing.erase_some, "__kwdefaults__", {"rows": 10})
    for messages in (25, 0, 3, 10):
        session = factories.ChatSessionFactory(owner=user)
        remember(session, messages)
        for number in range(1, 13):
            ChatTurn.objects.create(session=session, number=number, status="completed")
    steps = list(erasure.erase(user_id=user.pk, actor="code", now=NOW))
    sizes = [sum(step.counts[name] for name in step.counts if name != "bytes") for step in steps]
    grown = [second - first for first, second in zip([0, *sizes], sizes, strict=False)]
    assert max(grown) <= 11
    assert steps[-1].counts == {"sessions": 4, "messages": 38, "turns": 48} | {
        "bytes": steps[-1].counts["bytes"]
    }
    assert [step.finished for step in steps] == [False] * (len(steps) - 1) + [True]


@pytest.mark.parametrize("seed", range(4))
def test_killed_anywhere_it_goes_on_and_is_told_once(people, monkeypatch, seed):
    gone, other = people
    monkeypatch.setattr(erasing.erase_some, "__kwdefaults__", {"rows": 3})
    for _ in range(3):
        remember(gone.speak(hold_reason=""), 4)
    expected = erasure.preview(user_id=gone.user.pk, now=NOW, scope="account")
    chance, runs = random.Random(seed), 0
    while get_user_model().objects.filter(pk=gone.user.pk).exists():
        steps = erasure.erase(user_id=gone.user.pk, actor="command", now=NOW, scope="account")
        for step in steps:
            receipt = step
            if chance.random() < 0.4:
                break
        runs += 1
    assert runs > 1
    assert receipt.finished
    assert receipt.counts == expected.counts
    assert [entry["action"] for entry in entries()] == ["erase"]
    erasure.tidy()
    assert count(gone.word) == 0
    assert unnamed(other) == []


def test_who_goes_on_talking_is_erased_again(session, monkeypatch):
    erase_rest, said = erasing.has_sessions, []

    def talk(db: Any, **options: Any) -> bool:
        if len(said) < 2:
            said.append(factories.ChatSessionFactory(owner=session.owner))
        return erase_rest(db, **options)

    monkeypatch.setattr(erasing, "has_sessions", talk)
    assert erase(session.owner).counts["sessions"] == 3
    assert not ChatSession.objects.exists()


def test_who_never_stops_talking_is_not_waited_for(user, monkeypatch):
    monkeypatch.setattr(erasing, "has_sessions", lambda db, **options: True)
    with pytest.raises(StoreBusy):
        erase(user)


def test_what_begins_in_the_moment_of_the_end_is_erased_too(user, monkeypatch):
    erase_rest, times = erasing.erase_rest, []

    def collide(db: Any, **options: Any) -> Any:
        times.append(1)
        if len(times) < 3:
            raise IntegrityError
        return erase_rest(db, **options)

    monkeypatch.setattr(erasing, "erase_rest", collide)
    assert erase(user).counts["accounts"] == 1
    monkeypatch.setattr(erasing, "erase_rest", lambda db, **options: collide(None))
    times[:] = [1] * -9
    monkeypatch.setattr(erasure, "ATTEMPTS", 1)
    with pytest.raises(IntegrityError):
        erase(factories.UserFactory())


def test_a_session_that_code_named_after_a_person_is_theirs(user, stranger):
    mine = ChatSession.objects.create(
        agent_session_id=agent_session_id(user_id=user.pk, session_id=new_id())
    )
    names = [
        agent_session_id(user_id=stranger.pk, session_id=new_id()),
        mine.agent_session_id.replace("_conv_", "Xconv_"),
        f"{mine.agent_session_id.partition('_conv_')[0]}_conva",
        "any-id",
    ]
    for name in names:
        ChatSession.objects.create(agent_session_id=name)
    anothers = ChatSession.objects.create(
        owner=stranger, agent_session_id=mine.agent_session_id[:-1] + "z"
    )
    assert erase(user).counts["sessions"] == 1
    left = set(ChatSession.objects.values_list("agent_session_id", flat=True))
    assert left == {*names, anothers.agent_session_id}


def test_throttles_of_the_past_go_as_well(user):
    Throttle.objects.create(key="past", window_ends_at=NOW)
    Throttle.objects.create(key="now", window_ends_at=NOW.replace(year=2999))
    erase(user)
    assert [row.key for row in Throttle.objects.all()] == ["now"]


# --- Holds ---------------------------------------------------------------------------------


def test_where_something_is_on_hold_nothing_is_erased(people):
    gone, _ = people
    held = gone.speak(hold=True)
    before = tables()
    for act in (erase, lambda person: erasure.preview(
        user_id=person.user.pk, now=NOW, scope="account"
    )):  # fmt: skip
        with pytest.raises(ThreadHeld, match=str(held.id)):
            act(gone)
    assert tables() == before
    assert (signed_in(gone), entries()) == (1, [])
    assert get_user_model().objects.get(pk=gone.user.pk).is_active


def test_who_is_on_hold_is_not_erased(people):
    gone, _ = people
    UserHold.objects.create(user=gone.user, reason="r", placed_by="command")
    before = tables()
    with pytest.raises(ThreadHeld, match="All that this person has is on hold"):
        erase(gone)
    assert tables() == before


@pytest.mark.parametrize("whole", [True, False], ids=["person", "conversation"])
def test_a_hold_that_comes_meanwhile_keeps_the_rest_and_the_ledger_is_told_later(
    user, monkeypatch, whole
):
    monkeypatch.setattr(erasing.erase_some, "__kwdefaults__", {"rows": 3})
    rows = sorted((factories.ChatSessionFactory(owner=user) for _ in range(2)), key=_by_id)
    for row in rows:
        remember(row, 2)
    steps = erasure.erase(user_id=user.pk, actor="command", now=NOW, scope="sign_ins")
    next(steps)
    if whole:
        UserHold.objects.create(user=user, reason="r", placed_by="command")
    else:
        ChatSession.objects.filter(id=rows[1].id).update(hold=True)
    with pytest.raises(ThreadHeld):
        list(steps)
    assert rows[1].messages.count() == 2
    assert entries() == []
    UserHold.objects.all().delete()
    ChatSession.objects.update(hold=False)
    assert erase(user, "sign_ins").counts["messages"] == 4
    (entry,) = entries()
    assert entry["counts"]["messages"] == 4


def _by_id(row: Any) -> Any:
    return row.id


# --- What is kept beside conversations -----------------------------------------------------


def test_sessions_that_are_in_no_database_end_by_themselves(user):
    with override_settings(SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies"):
        assert traces.find_browser_sessions(user.pk) == []


def test_without_the_admin_there_is_no_log(user, monkeypatch):
    monkeypatch.setattr(traces.apps, "is_installed", lambda name: False)
    assert traces.clear_admin_log(user.pk) == 0


def test_the_log_of_things_of_others_stays(people):
    gone, other = people
    LogEntry.objects.all().update(user=factories.UserFactory())
    erase(gone)
    told = LogEntry.objects.values_list("object_repr", flat=True).order_by("object_repr")
    assert list(told) == ["(erased)", "(erased)", other.word, other.word]


def test_log_entries_without_an_object_or_a_person_are_left_alone(user, session):
    from django.contrib.contenttypes.models import ContentType

    rows = [
        (ContentType, "1"),
        (ChatSession, "no id"),
        (ChatSession, None),
        (ChatMessage, str(new_id())),
        (get_user_model(), "x"),
    ]
    for model, key in rows:
        LogEntry.objects.create(
            user=factories.UserFactory(),
            content_type=ContentType.objects.get_for_model(model),
            object_id=key,
            object_repr="kept",
            action_flag=2,
        )
    gone = ContentType.objects.create(app_label="gone", model="gone")
    LogEntry.objects.create(
        user=factories.UserFactory(), content_type=gone, object_repr="kept", action_flag=2
    )
    assert traces.clear_admin_log(user.pk) == 0
    assert set(LogEntry.objects.values_list("object_repr", flat=True)) == {"kept"}
    LogEntry.objects.all().delete()
    gone.delete()


@pytest.mark.parametrize(
    "args",
    [
        lambda row: (row.id,),
        lambda row: (str(row.id),),
        lambda row: (row.id.hex,),
        lambda row: ({"of": [row.messages.first().id]},),
    ],
    ids=["uuid", "text", "hex", "message"],
)
def test_work_that_names_somebodys_rows_is_not_done(session, args):
    remember(session, 1)
    foreign = factories.ChatSessionFactory()
    for row in (session, foreign):
        remember(foreign, 1)
        given = args(row)
        for compressed in (True, False):
            payload = SignedPackage.dumps({"args": given}, compressed=compressed)
            OrmQ.objects.create(key="a", payload=payload)
        Result.objects.create(
            id=new_id().hex, name="a", func="a", kwargs={"a": given}, started=NOW, stopped=NOW
        )
    OrmQ.objects.create(key="a", payload="no package")
    OrmQ.objects.create(key="a", payload=".bm9uZQ:x")
    assert erase(session.owner).counts["queue"] == 3
    assert (OrmQ.objects.count(), Result.objects.count()) == (4, 1)
