"""Attached files over HTTP: in once, out to their owner only, and executed by nobody."""

from __future__ import annotations

import asyncio
import tempfile
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from django.test import AsyncClient

from chatsite.asgi import application
from conversations import attachments as service
from conversations import lanes
from conversations.api import uploads
from conversations.models import Attachment
from conversations.tests.factories import PNG, AttachmentFactory, token_for
from conversations.tests.test_api_asgi import Exchange

FORM = "multipart/form-data; boundary=b"


@pytest.fixture
async def pending(user: Any) -> str:
    """Where the bytes of an announced image go."""
    row = await service.announce(
        owner_id=user.pk, name="a.png", size=len(PNG), mime_type="image/png"
    )
    return f"/chatkit/attachments/{row.id}"


@pytest.fixture
async def ready(client: httpx.AsyncClient, pending: str) -> str:
    """Where the bytes of an uploaded image are."""
    response = await client.put(pending, content=PNG)
    assert response.status_code == 200
    return pending


async def stored() -> list[Any]:
    return await lanes.call(lambda: list(Attachment.objects.values("status", "stored_size")))


async def file_at(user: Any, **values: Any) -> str:
    row = await lanes.call(lambda: AttachmentFactory(owner=user, **values))
    return f"/chatkit/attachments/{row.id}"


def part(name: str = "file", filename: str | None = "x.png", data: bytes = PNG) -> bytes:
    about = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    return b"--b\r\nContent-Disposition: " + about.encode() + b"\r\n\r\n" + data + b"\r\n"


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


# --- Bytes come in ------------------------------------------------------------------------------


async def test_bytes_are_put(client, pending):
    response = await client.put(pending, content=PNG, headers={"Content-Type": "image/png"})
    assert response.status_code == 200
    assert response.json() == {
        "id": pending.rpartition("/")[2],
        "type": "image",
        "name": "a.png",
        "mime_type": "image/png",
        "size": len(PNG),
    }
    assert await stored() == [{"status": "ready", "stored_size": len(PNG)}]


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_a_form_brings_them_in_its_one_file(client, pending, method):
    files = {"file": ("other name.html", PNG, "text/html")}
    response = await client.request(method, pending, files=files, data={"more": "x"})
    assert response.status_code == 200
    assert (response.json()["name"], response.json()["mime_type"]) == ("a.png", "image/png")
    assert (await client.get(pending)).content == PNG


async def test_bytes_may_be_posted_as_they_are_and_in_pieces(client, pending):
    async def pieces() -> Any:
        yield PNG[:50]
        yield PNG[50:]

    assert (await client.post(pending, content=pieces())).status_code == 200
    assert (await client.get(pending)).content == PNG


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b--\r\n",
        b"nonsense",
        part()[:-80],
        part("other") + b"--b--",
        part() + part() + b"--b--",
        part() + part("other") + b"--b--",
        part(filename=None) + b"--b--",
        b"--b\r\n" * 100,
        b"--b\r\nContent-Transfer-Encoding: base64\r\n" + part(data=b"!!!")[5:] + b"--b--",
    ],
    ids=[
        *["empty", "closed", "nonsense", "cut", "other", "two", "and more", "no file"],
        *["boundaries", "base64"],
    ],
)
async def test_a_form_without_one_file_is_invalid(client, pending, body):
    response = await client.post(pending, content=body, headers={"Content-Type": FORM})
    assert code(response) == (422, "invalid")
    assert await stored() == [{"status": "pending", "stored_size": 0}]


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary="])
async def test_a_form_without_a_boundary_is_invalid(client, pending, content_type):
    response = await client.post(pending, content=PNG, headers={"Content-Type": content_type})
    assert code(response) == (422, "invalid")


@pytest.mark.parametrize("content", [PNG[:-1], PNG + b"x", b"", b"<svg>".ljust(len(PNG))])
async def test_what_is_not_as_announced_is_invalid(client, pending, content):
    response = await client.put(pending, content=content)
    assert code(response) == (422, "invalid")
    assert [field["field"] for field in response.json()["error"]["fields"]] == ["file"]
    assert await stored() == [{"status": "pending", "stored_size": 0}]


async def test_a_second_upload_is_refused(client, ready):
    assert code(await client.put(ready, content=PNG)) == (409, "already_uploaded")
    assert (await client.get(ready)).content == PNG


async def test_a_file_may_be_larger_than_other_requests(client, user, settings):
    settings.CHAT_MAX_BODY_BYTES = 1_024
    row = await service.announce(owner_id=user.pk, name="a.csv", size=300_000, mime_type="text/csv")
    address = f"/chatkit/attachments/{row.id}"
    files = {"file": ("a.csv", b"x" * 300_000)}
    assert (await client.post(address, files=files)).status_code == 200
    assert len((await client.get(address)).content) == 300_000


@pytest.mark.parametrize("is_declared", [True, False])
@pytest.mark.parametrize("content_type", ["image/png", FORM])
async def test_what_is_too_large_is_413(client, pending, settings, is_declared, content_type):
    settings.CHAT_ATTACHMENT_MAX_BYTES = len(PNG)
    sent = []

    async def pieces() -> Any:
        for _ in range(100):
            sent.append(1)
            yield b"x" * 10_000

    headers = {"Content-Type": content_type}
    if is_declared:
        headers["Content-Length"] = "1000000"
    response = await client.put(pending, content=pieces(), headers=headers)
    assert code(response) == (413, "too_large")
    assert len(sent) < (2 if is_declared else 10)
    assert await stored() == [{"status": "pending", "stored_size": 0}]


async def test_a_form_may_be_a_little_larger_than_its_file(client, pending, settings):
    settings.CHAT_ATTACHMENT_MAX_BYTES = len(PNG)
    form = b"--b\r\nX-Padding: " + b"p" * 500 + b"\r\n" + part()[5:] + b"--b--\r\n"
    response = await client.post(pending, content=form, headers={"Content-Type": FORM})
    assert response.status_code == 200


# --- Whose it is --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["PUT", "POST", "GET"])
async def test_a_stranger_learns_nothing(strangers_client, client, user, method):
    addresses = [await file_at(user), await file_at(user, data=None)]
    nowhere = f"/chatkit/attachments/{uuid4()}"
    random = await strangers_client.request(method, nowhere, content=PNG)
    for address in addresses:
        foreign = await strangers_client.request(method, address, content=PNG)
        assert code(foreign) == (404, "not_found")
        assert (foreign.content, foreign.headers) == (random.content, random.headers)
    assert [row["status"] for row in await stored()] == ["ready", "pending"]


@pytest.mark.parametrize("method", ["PUT", "POST", "GET"])
@pytest.mark.parametrize(
    "name", ["1", "x" * 36, "..%2f..%2fetc%2fpasswd", "%00", "%F0%9F%99%82", "9" * 3000], ids=ascii
)
async def test_what_is_no_id_is_404(client, method, name):
    response = await client.request(method, f"/chatkit/attachments/{name}", content=PNG)
    assert code(response) == (404, "not_found")


@pytest.mark.parametrize("method", ["PUT", "POST", "GET"])
async def test_who_is_not_signed_in_is_401_and_nothing_is_read(method, pending):
    body = [b"x" * 1_000] * 5
    exchange = Exchange(application, method, pending, body=body, content_type=FORM)
    await exchange.task
    assert exchange.status == 401
    assert exchange.taken == (5 if method == "GET" else 0)
    assert await stored() == [{"status": "pending", "stored_size": 0}]


@pytest.mark.parametrize("content_type", ["image/png", FORM, "multipart/form-data"])
@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_a_cookie_needs_its_csrf_token_in_a_header(
    user, pending, anonymous, method, content_type
):
    browser = AsyncClient()
    await lanes.call(browser.force_login, user)
    anonymous.cookies["sessionid"] = browser.cookies["sessionid"].value
    headers = {"Content-Type": content_type}
    form = part("csrfmiddlewaretoken", None, b"t" * 32) + part() + b"--b--"
    response = await anonymous.request(method, pending, content=form, headers=headers)
    assert code(response) == (403, "csrf")
    token = "t" * 32
    anonymous.cookies["csrftoken"] = token
    headers["X-CSRFToken"] = token
    content = form.replace(part("csrfmiddlewaretoken", None, b"t" * 32), b"")
    content = content if content_type == FORM else PNG
    response = await anonymous.request(method, pending, content=content, headers=headers)
    assert response.status_code == (422 if content_type == "multipart/form-data" else 200)


def pass_for(user: Any, address: str) -> dict[str, str]:
    """What the upload descriptor of a file says to send."""
    attachment_id = UUID(address.rpartition("/")[2])
    token = service.upload_token(owner_id=user.pk, attachment_id=attachment_id)
    return {"X-Upload-Token": token}


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_a_descriptors_token_uploads_its_file_without_signing_in(
    user, anonymous, pending, method
):
    headers = pass_for(user, pending)
    assert (await anonymous.get(pending, headers=headers)).status_code == 401
    response = await anonymous.request(method, pending, content=PNG, headers=headers)
    assert response.status_code == 200
    assert (await anonymous.get(pending, headers=headers)).status_code == 401
    response = await anonymous.request(method, pending, content=PNG, headers=headers)
    assert response.status_code == 409


async def test_a_descriptors_token_is_for_that_file_only_and_not_for_long(
    user, anonymous, pending, monkeypatch
):
    other = await file_at(user, status="pending", stored_size=0, storage_name="")
    headers = pass_for(user, other)
    assert code(await anonymous.put(pending, content=PNG, headers=headers))[0] == 401
    no_file = await anonymous.put("/chatkit/attachments/x", content=PNG, headers=headers)
    assert no_file.status_code == 401
    forged = {"X-Upload-Token": headers["X-Upload-Token"][:-1] + "x"}
    assert (await anonymous.put(other, content=PNG, headers=forged)).status_code == 401
    monkeypatch.setattr(service, "UPLOAD_TOKEN_SECONDS", -1)
    mine = pass_for(user, pending)
    assert (await anonymous.put(pending, content=PNG, headers=mine)).status_code == 401
    assert {row["status"] for row in await stored()} == {"pending"}


async def test_a_stranger_with_a_descriptors_token_is_a_stranger(user, strangers_client, pending):
    response = await strangers_client.put(pending, content=PNG, headers=pass_for(user, pending))
    assert code(response) == (404, "not_found")


# --- Bytes go out -------------------------------------------------------------------------------


async def test_an_image_may_be_shown_and_nothing_in_it_run(client, ready):
    response = await client.get(ready)
    assert response.content == PNG
    wanted = {
        "content-type": "image/png",
        "content-length": str(len(PNG)),
        "content-disposition": 'inline; filename="a.png"',
        "content-security-policy": "sandbox; default-src 'none'",
        "x-content-type-options": "nosniff",
        "cache-control": "private, no-store",
    }
    assert {name: response.headers[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("mime_type", "served"),
    [
        ("application/pdf", "application/pdf"),
        ("text/plain", "text/plain"),
        ("text/html", "application/octet-stream"),
        ("image/svg+xml", "application/octet-stream"),
        ("application/zip", "application/octet-stream"),
    ],
)
async def test_all_else_is_only_to_be_saved(client, user, mime_type, served):
    address = await file_at(user, name="a.x", mime_type=mime_type, data=b"<script>")
    response = await client.get(address)
    assert response.headers["Content-Type"] == served
    assert response.headers["Content-Disposition"] == 'attachment; filename="a.x"'
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        ('a"\r\nX-Evil: 1.png', 'inline; filename="a\\"__X-Evil: 1.png"'),
        ('a"b\\c.png', 'inline; filename="a\\"b_c.png"'),
        ("Übung.png", "inline; filename*=utf-8''%C3%9Cbung.png"),
        ("fdp\u202egnp.exe", 'inline; filename="fdpgnp.exe"'),
    ],
    ids=ascii,
)
async def test_a_name_stays_a_name(client, user, name, disposition):
    row = await service.announce(owner_id=user.pk, name=name, size=len(PNG), mime_type="image/png")
    address = f"/chatkit/attachments/{row.id}"
    await client.put(address, content=PNG)
    found = (await client.get(address)).headers["Content-Disposition"]
    assert found == disposition


async def test_a_file_that_was_only_announced_is_not_there(client, pending):
    assert code(await client.get(pending)) == (404, "not_found")


async def test_a_large_file_goes_out_in_pieces(client, user, monkeypatch):
    monkeypatch.setattr("conversations.api.attachments.CHUNK_BYTES", 100)
    address = await file_at(user)
    exchange = Exchange(
        application, "GET", address, authorization=f"Bearer {await lanes.call(token_for, user)}"
    )
    pieces = []
    while (piece := await exchange.pieces.get()) is not None:
        pieces.append(piece)
    assert [len(piece) for piece in pieces if piece] == [100, 100, 8]


# --- Connections that behave badly --------------------------------------------------------------


class Stalling(Exchange):
    """Says that more comes, and sends nothing after the first piece."""

    async def _receive(self) -> Any:
        if self.taken:
            await asyncio.Event().wait()
        return await super()._receive()


async def send(
    user: Any, address: str, *body: bytes, kind: type[Exchange] = Exchange, **headers: str
) -> Exchange:
    headers["authorization"] = f"Bearer {await lanes.call(token_for, user)}"
    sent = kind(application, "PUT", address, body=list(body), **headers)
    await sent.task
    return sent


@pytest.mark.parametrize("content_type", ["image/png", FORM])
async def test_who_hangs_up_leaves_nothing(user, pending, content_type):
    await send(user, pending, PNG[:9], b"HANG UP", content_type=content_type)
    assert await stored() == [{"status": "pending", "stored_size": 0}]


@pytest.mark.parametrize("content_type", ["image/png", FORM])
async def test_who_stalls_is_sent_away(user, pending, monkeypatch, content_type):
    monkeypatch.setattr(service, "UPLOAD_SECONDS", 0.02)
    sent = await send(user, pending, PNG[:9], b"", kind=Stalling, content_type=content_type)
    assert sent.status == 422
    assert await stored() == [{"status": "pending", "stored_size": 0}]


@pytest.mark.parametrize("declared", ["9" * 30, "٣", "-1", "x", ""], ids=ascii)
async def test_a_length_that_is_none_counts_for_nothing(user, pending, declared):
    sent = await send(user, pending, PNG, content_length=declared)
    assert sent.status == (413 if declared.startswith("9") else 200)


async def test_no_temporary_file_is_left(client, pending, settings, tmp_path, monkeypatch):
    settings.FILE_UPLOAD_TEMP_DIR = str(tmp_path)
    monkeypatch.setattr(service, "MEMORY_BYTES", 10)
    made = []
    plain = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda *a, **k: made.append(1) or plain(*a, **k))
    assert (await client.post(pending, files={"file": ("a", PNG[:-1])})).status_code == 422
    assert (await client.post(pending, files={"file": ("a", PNG)})).status_code == 200
    assert made
    assert list(tmp_path.iterdir()) == []


async def test_another_handler_may_have_read_the_body(user, pending):
    """As Django's own does, which bounds it too."""
    token = await lanes.call(token_for, user)
    response = await AsyncClient().put(
        pending, PNG, content_type="image/png", headers={"Authorization": f"Bearer {token}"}
    )
    assert response.status_code == 200
    assert UUID(response.json()["id"])


def test_only_uploads_are_left_to_be_read():
    def is_upload(method: str, path: str) -> bool:
        return uploads.is_upload({"method": method, "path": path})

    assert is_upload("PUT", "/chatkit/attachments/1")
    assert is_upload("POST", "/chatkit/attachments/1")
    assert not is_upload("PATCH", "/chatkit/attachments/1")
    assert not is_upload("GET", "/chatkit/attachments/1")
    assert not is_upload("POST", "/chatkit")
