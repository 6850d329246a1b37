"""Access tokens: what opens the door, and what does not."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.core import signing
from django.db import connection, connections, transaction
from django.test import override_settings
from django.utils import timezone

from conversations import lanes, tokens
from conversations.errors import Unauthenticated
from conversations.models import AccessToken
from conversations.tests.factories import token_for
from conversations.tests.supervisor_processes import eventually

SALT = "conversations.access-token"


@pytest.fixture(autouse=True)
def _nothing_is_under_way() -> None:
    tokens._noting.clear()


@pytest.fixture
def token(user: Any) -> str:
    return token_for(user)


async def is_refused(text: str) -> bool:
    try:
        await tokens.authenticate_token(text)
    except Unauthenticated:
        return True
    return False


def signed(claims: Any, salt: str = SALT) -> str:
    return "cst_" + signing.dumps(claims, salt=salt)


def in_an_hour() -> int:
    return int((timezone.now() + timedelta(hours=1)).timestamp())


async def test_a_token_stands_for_its_user_and_its_row(user, token):
    who = await tokens.authenticate_token(token)
    assert who.user_id == user.pk
    row = await lanes.call(AccessToken.objects.get)
    assert (who.token_id, row.user_id, row.name) == (row.id, user.pk, "test")


def test_the_text_is_stored_nowhere(user, token):
    secret = token.removeprefix("cst_")
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {AccessToken._meta.db_table}")
        stored = str(cursor.fetchall())
    for part in (secret, *secret.split(":")):
        assert part not in stored


def test_the_expiry_is_told_and_a_long_name_is_cut(user):
    now = timezone.now()
    issued = tokens.issue_token(user=user, name="n" * 200, lifetime=timedelta(days=2), now=now)
    assert issued.expires_at == now + timedelta(days=2)
    row = AccessToken.objects.get()
    assert row.name == "n" * 100
    assert list(AccessToken.objects.valid_at(now)) == [row]
    assert not AccessToken.objects.valid_at(issued.expires_at).exists()


async def test_what_is_not_whole_and_ours_is_refused(user, token):
    prefix, secret = token[:4], token[4:]
    claims = signing.loads(secret, salt=SALT)
    broken = {
        "nothing": "",
        "the prefix alone": prefix,
        "no prefix": secret,
        "another prefix": "sk-" + secret,
        "truncated": token[:-1],
        "half": token[: len(token) // 2],
        "longer": token + "a",
        "one letter changed": token[:-1] + ("a" if token[-1] != "a" else "b"),
        "claims changed": token[:6] + ("A" if token[6] != "A" else "B") + token[7:],
        "another salt": signed(claims, salt="other"),
        "no salt": prefix + signing.dumps(claims),
        "another key": prefix + signing.dumps(claims, key="k" * 50, salt=SALT),
        "no algorithm": "eyJhbGciOiJub25lIn0.eyJ1c2VyX2lkIjoxfQ.",
        "text that no engine stores": prefix + "\x00\ud800",
        "a session of another kind": str(uuid4()),
    }
    assert [name for name, text in broken.items() if not await is_refused(text)] == []
    assert not await is_refused(token)


async def test_signed_claims_of_a_wrong_shape_are_refused(user):
    row, later = uuid4().hex, in_an_hour()
    wrong = ([], [row], [row, "1"], [row, "1", "soon"], ["no uuid", "1", later], {}, 1, None)
    for claims in (*wrong, [row, "no key", later], [row, "1", later, "more"], [row, "1", None]):
        assert await is_refused(signed(claims)), claims


async def test_a_token_whose_row_is_gone_is_refused(user, token):
    assert await is_refused(signed([uuid4().hex, str(user.pk), in_an_hour()]))
    await lanes.call(AccessToken.objects.all().delete)
    assert await is_refused(token)


async def test_a_token_expires(user):
    assert await is_refused(await lanes.call(token_for, user, seconds=0.001))
    issued = await lanes.call(
        lambda: tokens.issue_token(
            user=user,
            name="",
            lifetime=timedelta(days=30),
            now=timezone.now() - timedelta(days=30, seconds=1),
        )
    )
    assert await is_refused(issued.text)


async def test_a_revoked_token_opens_nothing_and_others_still_do(user, token):
    other = await lanes.call(token_for, user)
    who = await tokens.authenticate_token(token)
    await tokens.revoke_token(who.token_id)
    assert await is_refused(token)
    assert not await is_refused(other)
    first = (await lanes.call(AccessToken.objects.get, id=who.token_id)).revoked_at
    await tokens.revoke_token(who.token_id)
    assert (await lanes.call(AccessToken.objects.get, id=who.token_id)).revoked_at == first


async def test_the_token_of_someone_who_is_deactivated_or_deleted_is_refused(user, token):
    user.is_active = False
    await lanes.call(user.save)
    assert await is_refused(token)
    user.is_active = True
    await lanes.call(user.save)
    assert not await is_refused(token)
    await lanes.call(user.delete)
    assert await is_refused(token)


async def test_another_secret_key_refuses_it_and_an_older_one_may_be_kept(user, token):
    with override_settings(SECRET_KEY="another-key-" + "k" * 50):
        assert await is_refused(token)
    with override_settings(
        SECRET_KEY="another-key-" + "k" * 50,
        SECRET_KEY_FALLBACKS=["test-secret-key-" + "t" * 40],
    ):
        assert not await is_refused(token)


async def last_use(token: str) -> Any:
    """What the row says once the token has been used and all that was begun is written."""
    await tokens.authenticate_token(token)
    await lanes.write(lambda db: None)
    async with asyncio.timeout(10):
        while tokens._noting:
            await lanes.write(lambda db: None)
    return (await lanes.call(AccessToken.objects.get)).last_used_at


async def test_last_use_is_noted_at_most_once_a_minute(user, token):
    first = await last_use(token)
    assert abs(first - timezone.now()) < timedelta(minutes=1)
    assert await last_use(token) == first
    recently = timezone.now() - timedelta(seconds=50)
    await lanes.call(AccessToken.objects.update, last_used_at=recently)
    assert await last_use(token) == recently
    earlier = timezone.now() - timedelta(seconds=61)
    await lanes.call(AccessToken.objects.update, last_used_at=earlier)
    assert await last_use(token) >= first


async def test_a_use_that_cannot_be_noted_costs_the_request_nothing(user, token, caplog):
    with override_settings(CHAT_STORE_BUDGET_SECONDS=0.3), unwritable():
        for _ in range(3):
            begun = time.monotonic()
            assert (await tokens.authenticate_token(token)).user_id == user.pk
            assert time.monotonic() - begun < 0.25
        await asyncio.to_thread(eventually, lambda: caplog.messages)
        assert (await tokens.authenticate_token(token)).user_id == user.pk
    assert caplog.messages == ["the use of a token was not noted: StoreBusy"]
    (token_id,) = tokens._noting
    tokens._noting[token_id] -= timedelta(seconds=61)
    assert await last_use(token) is not None  # tried again a minute later


@contextmanager
def unwritable() -> Iterator[None]:
    """Somebody else holds what a token's row needs to be written."""
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            list(AccessToken.objects.select_for_update())
            held.set()
            assert over.wait(timeout=30)
        connections.close_all()

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(timeout=30)
    lanes.close()  # the budget is that of each connection
    yield
    over.set()
    holder.join()
    lanes.close()


def test_a_loop_that_ends_leaves_no_note_open(user, token):
    asyncio.run(tokens.authenticate_token(token))
    lanes.close()
    assert AccessToken.objects.get().last_used_at is not None
