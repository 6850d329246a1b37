"""The transcript page: what happened, in its place, and nothing that acts."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any, Final
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from conversations.admin import transcript as pages
from conversations.admin.transcript import memory_begins
from conversations.items import Row, note_row, row_from_item
from conversations.models import ChatMessage, ChatSession, ChatTurn, Feedback
from conversations.tests.factories import AttachmentFactory, ChatSessionFactory
from conversations.tests.staff_helpers import (
    READER,
    answered,
    browser,
    called,
    counted,
    output,
    reasoned,
    said,
    take_turn,
    transcript,
    window,
)
from conversations.tests.test_store_thread_items import on_sqlite

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def staff() -> Client:
    return browser(*READER)


@pytest.fixture
def curious() -> Client:
    return browser(*READER, "view_hidden_content", "view_quarantinedmessage")


VOID: Final = {"meta", "link", "br", "hr", "input", "img", "path", "use", "symbol"}


class Parsed(HTMLParser):
    """A page as a browser takes it: what is in it, what it loads, which parts have names."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, f"a {tag} is closed out of order"

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def pieces(html: str) -> list[str]:
    """The texts of what happened, in order, without marks."""
    log = html.partition('id="log"')[2].partition("Pages of the transcript, below")[0]
    found = re.findall(
        r'<article class="piece.*?</article>|<p class="(?:gap|memory|end).*?</p>', log, re.S
    )
    texts = (re.sub(r"<[^>]*>", " ", each) for each in found)
    return [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "", " ".join(text.split())) for text in texts]


def change(position: int, **values: Any) -> None:
    ChatMessage.objects.filter(position=position).update(**values)


# What happened


def test_turns_are_told_in_their_order_with_what_they_cost(staff, session):
    take_turn(session, said("Hi"), answered("**Hello**"), input_tokens=1234, output_tokens=5)
    take_turn(session, said("Bye"), status="running")
    html = transcript(staff, session)
    assert [each.split()[0] for each in pieces(html)] == ["Person", "Assistant", "Person", "Runs"]
    assert "<strong>Hello</strong>" in html
    assert html.index("Turn 1") < html.index("Turn 2")
    for fact in ("model-1", "1,234 tokens in, 5 out", "took 2.0 s"):
        assert fact in html


def test_a_persons_words_are_shown_as_they_were_typed(staff, session):
    take_turn(session, said("*not* marked\nat all"))
    assert "<p>*not* marked<br>at all</p>" in transcript(staff, session)


def test_calls_and_outputs_are_folded_with_their_tool(staff, session):
    arguments = json.dumps({"title": "Café"})
    take_turn(session, said("Add"), called("add_task", arguments), output('{"id": 7}'), output("b"))
    html = transcript(staff, session)
    assert "add_task: called" in html
    assert html.count("<strong>add_task: output") == 2
    assert "&quot;title&quot;: &quot;Café&quot;" in html
    assert "&quot;id&quot;: 7" in html
    assert "<details><summary>Arguments" in html


def test_how_turns_ended_stands_in_its_place(staff, session):
    take_turn(session, said("a"), status="failed", error_code="model_unavailable")
    take_turn(session, said("b"), status="failed", error_code="own_code")
    partial = Row("message", "assistant", text="Once", shown=True, incomplete=True)
    take_turn(session, said("c"), partial, status="interrupted", error_code="interrupted")
    take_turn(session, said("d"), status="cancelled")
    take_turn(session, said("e"), warning="Context unavailable")
    take_turn(session, status="queued", user_message_id=None)
    found = pieces(transcript(staff, session))
    assert found[1].startswith("Failed (model_unavailable). The model did not answer")
    assert found[3] == "Failed (own_code)."
    assert "Cut short" in found[5]
    assert found[6].startswith("Interrupted. ")
    assert found[8].startswith("Stopped")
    assert found[10] == "Warning: Context unavailable"
    assert found[11:] == ["Nothing is stored yet.", "Waits in the line."]


def test_what_waits_is_shown(staff, session):
    take_turn(session, said("Hi"), answered("Hello"), input="not this")
    take_turn(session, status="queued", user_message_id=None, input="<b>And?</b>")
    html = transcript(staff, session)
    assert pieces(html)[2:] == ["Person, waiting &lt;b&gt;And?&lt;/b&gt;", "Waits in the line."]
    assert "not this" not in html


def test_long_waits_and_runs_are_told(staff, session):
    now = timezone.now()
    turn = take_turn(session, said("a"), requests=3)
    ChatTurn.objects.filter(id=turn.id).update(
        queued_at=now - timezone.timedelta(seconds=3),
        started_at=now,
        first_token_at=now + timezone.timedelta(seconds=1),
        finished_at=now + timezone.timedelta(seconds=90),
    )
    html = transcript(staff, session)
    for fact in ("waited 3.0 s", "first word after 1.0 s", "took 1.5 min", "3 requests"):
        assert fact in html


def test_feedback_and_files_stand_with_their_message(staff, session, user):
    row = answered("Hello")
    take_turn(session, said("Hi"), row)
    Feedback.objects.create(
        message=ChatMessage.objects.get(id=row.id),
        session=session,
        user=user,
        kind="negative",
        comment="<i>No</i>",
    )
    AttachmentFactory(owner=user, session=session, message_id=row.id, name='<b>"plan".png')
    html = transcript(staff, session)
    assert "Negative feedback" in html
    assert "&lt;i&gt;No&lt;/i&gt;" in html
    assert "&lt;b&gt;&quot;plan&quot;.png" in html


def test_entries_without_a_turn_are_shown_too(staff, session):
    take_turn(session, said("Hi"))
    ChatMessage.objects.update(turn=None)
    assert pieces(transcript(staff, session))[0].startswith("Person")


def test_nothing_said_is_said_so(staff, session):
    assert "Nothing is stored of this conversation." in transcript(staff, session)


# What people do not see


HIDDEN: Final = {
    "reasoning": reasoned("a secret thought"),
    "note": note_row("a secret note"),
    "hidden context": Row("hidden_context_item", thread_item='{"content": "a secret"}'),
    "developer": row_from_item({"role": "developer", "content": "a secret order"}),
    "summary": row_from_item({"type": "compaction", "encrypted_content": "a secret"}),
    "unknown": row_from_item({"what": "a secret"}),
}


@pytest.mark.parametrize("row", HIDDEN.values(), ids=HIDDEN)
@pytest.mark.parametrize("look", [transcript, window], ids=["transcript", "model"])
def test_hidden_entries_are_named_and_shown_only_by_right(session, row, look):
    row = Row(**{f: getattr(row, f) for f in row.__slots__ if f != "id"})
    take_turn(session, said("Hi"), row, answered("Hello"))
    without, with_it = look(browser(*READER), session), look(browser(*READER, *HIDES), session)
    assert "secret" not in without
    if look is transcript or row.agent_item is not None:
        assert "You may not see this entry." in without
        assert "secret" in with_it


HIDES: Final = ("view_hidden_content",)


def test_the_thread_item_of_a_message_is_shown_by_right(session, staff, curious):
    row = row_from_item({"role": "user", "content": "Hi"})
    take_turn(session, row)
    change(1, thread_item='{"quoted_text": "a secret"}')
    assert "secret" not in transcript(staff, session)
    assert "secret" in transcript(curious, session)


def test_what_people_see_beside_messages_is_shown(staff, session):
    take_turn(session, Row("widget", "assistant", thread_item='{"widget": "a card"}', text="Card"))
    html = transcript(staff, session)
    assert "a card" in html
    assert "<strong>Widget</strong>" in html


# What is missing


def test_pruned_entries_leave_a_mark_with_the_reason(staff, session):
    take_turn(session, said("Hi"), called(), output(), answered("Hello"))
    take_turn(session, said("And?"))
    ChatMessage.objects.filter(position__in=[2, 3]).delete()
    ChatMessage.objects.filter(position__in=[1, 4]).update(agent_item=None)
    ChatSession.objects.update(pruned_count=4, remembered_count=1)
    found = pieces(transcript(staff, session))
    assert found[1] == (
        "2 entries are gone: pruned: only the model saw them, and its memory was full."
    )
    assert found[3].startswith("The memory begins here")


def test_between_turns_it_may_be_either(staff, session):
    take_turn(session, said("Hi"), called())
    take_turn(session, said("And?"))
    ChatMessage.objects.filter(position=2).delete()
    change(1, agent_item=None)
    ChatSession.objects.update(pruned_count=2, remembered_count=1)
    found = pieces(transcript(staff, session))
    assert found[1] == "1 entry is gone: pruned when the memory was full, or taken back."


def test_what_was_taken_back_leaves_a_mark(staff, session):
    take_turn(session, said("Hi"), answered("Hello"))
    turn = take_turn(session, said("Wrong"))
    take_turn(session, said("Right"))
    ChatMessage.objects.filter(position=3).delete()
    ChatTurn.objects.filter(id=turn.id).update(user_message_id=None)
    found = pieces(transcript(staff, session))
    assert found[2].startswith("1 entry is gone: taken back")
    assert "What was said is gone: taken back, or cleared." in found


def test_the_end_may_be_missing_too(staff, session):
    take_turn(session, said("Hi"), answered("Hello"))
    take_turn(session, said("And?"))
    ChatMessage.objects.filter(position=3).delete()
    assert pieces(transcript(staff, session))[-1] == "1 entry is gone: taken back, or cleared."
    ChatMessage.objects.all().delete()
    found = pieces(transcript(staff, session))
    assert found[:2] == ["Nothing of it is stored."] * 2
    assert found[-1] == "3 entries are gone: taken back, or cleared."


def test_many_turns_of_which_nothing_is_left_are_told_in_one_line(staff, session):
    for _ in range(5):
        take_turn(session)
    take_turn(session, said("Hi"))
    take_turn(session)
    found = pieces(transcript(staff, session))
    assert found[0] == "Of turns 1 to 5 nothing is left: taken back, or cleared."
    assert found[2] == "What was said is gone: taken back, or cleared."


@pytest.mark.parametrize(
    ("remembered", "begins"),
    [
        ([], []),
        ([(5, "message"), (6, "message")], [5]),
        ([(2, "reasoning"), (3, "compaction"), (9, "message")], [2, 9]),
        ([(8, "compaction"), (9, "message")], [8]),
        ([(8, "message"), (9, "compaction"), (12, "message")], [8]),
    ],
    ids=["nothing", "plain", "kept summary", "summary first", "summary later"],
)
def test_where_the_memory_begins(remembered, begins):
    assert memory_begins(remembered) == begins


def test_a_summary_that_is_kept_is_marked_apart(staff, session):
    take_turn(session, said("0"), row_from_item({"type": "compaction"}), said("a"), said("b"))
    ChatMessage.objects.filter(position__in=[1, 3]).update(agent_item=None)
    ChatSession.objects.update(remembered_count=2)
    found = pieces(transcript(staff, session))
    assert found[1].startswith("A summary that the memory keeps")
    assert found[4].startswith("The memory begins here")


def test_entries_set_aside_are_shown_raw_with_a_way_back(curious, staff, session):
    take_turn(session, said("Hi"), output(call_id="gone"))
    change(2, quarantined_at=timezone.now(), quarantine_reason="no call", agent_item='{"<b>')
    change(1, quarantined_at=timezone.now(), quarantine_reason="odd")
    ChatSession.objects.update(quarantined_count=2)
    html = transcript(curious, session)
    assert "what it answers does not come before it" in html
    assert "Set aside: odd." in html
    assert "{&quot;&lt;b&gt;" in html
    key = ChatMessage.objects.get(position=2).id
    address = f"/admin/conversations/quarantinedmessage/{key}/change/"
    assert address in html
    assert curious.get(address).status_code == 200
    assert address not in transcript(staff, session)


def test_hidden_entries_set_aside_stay_hidden(staff, curious, session):
    take_turn(session, said("Hi"), reasoned("a secret thought"))
    change(2, quarantined_at=timezone.now(), quarantine_reason="no follower")
    assert "secret" not in transcript(staff, session)
    assert "secret" in transcript(curious, session)


def test_entries_a_hold_keeps_say_so(staff, session):
    take_turn(session, said("Hi"))
    change(1, forgotten_at=timezone.now())
    assert "Kept for a hold" in transcript(staff, session)


@on_sqlite
def test_damaged_rows_are_shown_as_far_as_they_can_be(curious, session):
    take_turn(session, *[said(f"word {n}") for n in range(5)])
    with connection.cursor() as cursor:
        table = ChatMessage._meta.db_table
        for position, damage in {
            1: "text = CAST(x'ff41' AS TEXT)",
            2: "agent_item = x'ff00', kind = x'ff'",
            3: "created_at = 'never'",
            4: "position = 'four'",
        }.items():
            cursor.execute(f"UPDATE {table} SET {damage} WHERE position = %s", [position])
    html = transcript(curious, session)
    assert "\ufffdA" in html
    assert "Without a place" in html
    assert "word 3" in html.partition("Without a place")[2]
    Parsed(html)


# Pages and links


def test_pages_follow_each_other(staff, session, monkeypatch):
    monkeypatch.setattr(pages, "PAGE", 3)
    take_turn(session, *[said(f"word {n}") for n in range(8)])

    def words(**params: Any) -> list[int]:
        return [int(n) for n in re.findall(r"word (\d)", transcript(staff, session, **params))]

    assert words() == [5, 6, 7]
    assert words(since=0) == [0, 1, 2]
    assert words(since=4) == [3, 4, 5]
    assert words(until=5) == [2, 3, 4]
    for nonsense in ("x", "-1", "9" * 30, "\u0661"):
        assert words(since=nonsense) == [5, 6, 7]
    assert words(since="9" * 18) == []
    html = transcript(staff, session, since=4)
    assert "?until=3" in html
    assert "?since=7" in html


def test_a_link_leads_to_an_entry_on_any_page(staff, session, monkeypatch):
    monkeypatch.setattr(pages, "PAGE", 3)
    monkeypatch.setattr(pages, "BEFORE_A_MARK", 1)
    take_turn(session, *[said(f"word {n}") for n in range(8)])
    key = ChatMessage.objects.get(position=3).id
    html = transcript(staff, session, at=str(key))
    assert re.findall(r"word (\d)", html) == ["1", "2", "3"]
    assert f'id="m-{key}"' in html
    assert f"?at={key}#m-{key}" in html
    assert len(re.findall(r'class="piece said marked"', html)) == 1


def test_a_link_to_what_is_elsewhere_says_so_and_shows_nothing_of_it(staff, session):
    other = ChatSessionFactory()
    take_turn(other, said("theirs"))
    take_turn(session, said("ours"))
    foreign = ChatMessage.objects.get(session=other).id
    for key in (foreign, uuid4()):
        html = transcript(staff, session, at=str(key))
        assert "is not in this conversation" in html
        assert "ours" in html
        assert "theirs" not in html
    assert "is not in this" not in transcript(staff, session, at="nonsense")


# Hostile content is inert, and readable


HOSTILE: Final = {
    "script": '<script>alert(1)</script><img src=x onerror="alert(1)">',
    "svg": '<svg onload="alert(1)"><animate onbegin="alert(1)"/></svg>',
    "breaking out": '</pre></details></article></div></body>"><script>1</script>',
    "template": "{% load x %}{{ settings.SECRET_KEY }}",
    "link": "[a](javascript:alert(1)) [b](data:text/html,x) ![c](https://evil.example/c.png)",
    "direction": "safe\u202egnp.exe \u2066\u2067 \u200f",
    "controls": "a\x01\x1b[31m\x7f\u0085\ufeff",
    "not a character": "a\ud800\x00b",
    "a long word": "x" * 100_000,
    "many marks": "*_`[" * 2_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_content_is_inert_and_readable(curious, session, text):
    plain = Row("message", "assistant", text="", shown=True, agent_item="{}")
    take_turn(
        session,
        said(text),
        answered(text),
        reasoned(text),
        called(text[:150], text),
        output(text),
        output([{"type": "input_text", "text": text}]),
        note_row(text),
        plain,
    )
    ChatSession.objects.update(title=text.replace("\x00", "").replace("\ud800", "")[:200])
    for look in (transcript, window):
        html = look(curious, session)
        page = Parsed(html)
        assert not [attrs for tag, attrs in page.tags if any(k.startswith("on") for k in attrs)]
        assert not [attrs for tag, attrs in page.tags if "style" in attrs]
        assert page.all("style") == page.all("img") == page.all("iframe") == []
        scripts = page.all("script")
        assert scripts
        assert all((each["src"] or "").startswith("/static/") for each in scripts)
        for attrs in page.all("a"):
            assert (attrs.get("href") or "").split(":")[0] not in {"javascript", "data"}
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08]", html)
        assert "SECRET_KEY }}" in html or "SECRET" not in text
        assert len(html) < 2_000_000
        start = re.split(r"[\x00-\x1f\u2000-\u20ff\ud800\[*<{]", text)[0][:50]
        assert start in page.text


def test_an_output_of_five_megabytes_is_cut_with_a_note(staff, session):
    take_turn(session, called(), output("y" * 5_000_000), output("z" * 30_000))
    html = transcript(staff, session)
    assert re.search(r"The first 20,000 of 5,\d{3},\d{3} characters\.", html)
    assert "The first 20,000 of 30,000 characters." in html
    assert len(html) < 200_000
    assert "of 5," in window(staff, session)


def test_a_long_message_is_cut_with_a_note(staff, session):
    take_turn(session, said("word " * 20_000))
    html = transcript(staff, session)
    assert "The first 20,000 of 100,000 characters." in html


def test_markdown_has_a_budget_and_the_rest_stays_readable(staff, session, monkeypatch):
    monkeypatch.setattr("conversations.admin.pieces.MARKDOWN_CHARS", 5)
    take_turn(session, answered("**bold**"), answered("**plain**"))
    html = transcript(staff, session)
    assert "<strong>bold</strong>" in html
    assert "**plain**" in html


# For everybody


def test_the_page_has_names_and_order_for_whoever_cannot_see_it(curious, session):
    take_turn(session, said("Hi"), called(), output(), answered("# Head\n\nHello"))
    for look in (transcript, window):
        page = Parsed(look(curious, session))
        levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
        assert levels.count(1) == 1
        assert {name for name in levels if name > 2} <= {3}
        ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
        assert len(ids) == len(set(ids))
        for _, attrs in page.tags:
            assert attrs.get("aria-labelledby", ids[0]) in ids
        assert [attrs for attrs in page.all("nav") if not attrs.get("aria-label")] == []
        assert [attrs for attrs in page.all("article") if not attrs.get("aria-label")] == []
        assert page.all("main")
    assert 'href="#log"' in transcript(curious, session)


def test_the_pages_keep_to_the_strict_policy(curious, session):
    take_turn(session, said("Hi"))
    for path in ("", f"{session.id}/transcript/", f"{session.id}/model/"):
        response = curious.get(f"/admin/conversations/chatsession/{path}")
        assert "unsafe" not in response["Content-Security-Policy"]
        page = Parsed(response.content.decode())
        assert not [attrs for _, attrs in page.tags if "style" in attrs or "onclick" in attrs]
        for attrs in [*page.all("link"), *page.all("script"), *page.all("img")]:
            address = attrs.get("href") or attrs.get("src") or ""
            assert address.startswith(("/static/", "data:,"))


# What it costs


def test_a_page_takes_fewer_than_fifteen_queries_however_long_it_is(curious, session):
    take_turn(session, said("Hi"), answered("Hello"))
    with counted() as few:
        transcript(curious, session)
    for n in range(30):
        take_turn(session, said(f"{n}"), called(), output(), answered("Hello"), warning="W")
    with counted() as many:
        transcript(curious, session)
    assert len(many) == len(few) < 15, many
    with counted() as of_window:
        window(curious, session)
    assert len(of_window) < 15
