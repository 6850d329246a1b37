"""The page of OpenAI's ChatKit component: nobody's by default, and the only one with its policy."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.test import Client, override_settings

from chatsite.settings import CORS_URLS_REGEX
from conversations.api.asgi import is_api_path

PAGE = "/chatkit-page/"
CDN = "https://cdn.platform.openai.com"
STATIC = Path(settings.BASE_DIR) / "conversations" / "static" / "conversations"
SCRIPT = STATIC / "chatkit-page.js"


@pytest.fixture
def visitor() -> Client:
    return Client(enforce_csrf_checks=True)


@pytest.fixture
def signed_in(transactional_db: None) -> Client:
    client = Client(enforce_csrf_checks=True)
    client.force_login(get_user_model().objects.create_user("ada"))
    return client


@pytest.fixture
def opted_in() -> Any:
    with override_settings(CHATKIT_PAGE=True, CHATKIT_DOMAIN_KEY="domain_pk_1"):
        yield


def policy_of(response: Any) -> dict[str, set[str]]:
    parts = [part.split() for part in response["Content-Security-Policy"].split("; ")]
    return {name: set(sources) for name, *sources in parts}


def test_by_default_there_is_no_such_page_for_anybody(visitor: Client, signed_in: Client) -> None:
    for client in (visitor, signed_in):
        response = client.get(PAGE)
        assert response.status_code == 404
        assert CDN not in response.content.decode() + response["Content-Security-Policy"]


@pytest.mark.usefixtures("opted_in")
def test_a_stranger_is_sent_to_sign_in(visitor: Client) -> None:
    response = visitor.get(PAGE)
    assert (response.status_code, response["Location"]) == (302, f"/sign-in?next={PAGE}")
    assert CDN not in response["Content-Security-Policy"]


@pytest.mark.usefixtures("opted_in", "transactional_db")
def test_a_token_alone_does_not_open_the_page(visitor: Client) -> None:
    response = visitor.get(PAGE, headers={"authorization": "Bearer anything"})
    assert response.status_code == 302


@pytest.mark.usefixtures("opted_in")
def test_the_page_holds_the_component_and_its_configuration(signed_in: Client) -> None:
    response = signed_in.get(PAGE)
    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]
    assert not response.cookies["csrftoken"]["httponly"]  # its script reads it
    page = response.content.decode()
    assert '<openai-chatkit id="chatkit">' in page
    assert 'data-api="/chatkit"' in page
    assert 'data-domain-key="domain_pk_1"' in page
    assert 'data-sign-in="/sign-in"' in page


@pytest.mark.usefixtures("opted_in")
def test_the_page_is_only_read(signed_in: Client) -> None:
    token = signed_in.get(PAGE).cookies["csrftoken"].value
    assert signed_in.post(PAGE, headers={"x-csrftoken": token}).status_code == 405


@override_settings(CHATKIT_PAGE=True)
def test_without_a_domain_key_there_is_one_for_localhost(signed_in: Client) -> None:
    assert 'data-domain-key="local-dev"' in signed_in.get(PAGE).content.decode()


@override_settings(CHATKIT_PAGE=True, CHATKIT_DOMAIN_KEY='"><script>alert(1)</script>')
def test_a_strange_domain_key_stays_text(signed_in: Client) -> None:
    assert "<script>alert" not in signed_in.get(PAGE).content.decode()


@pytest.mark.usefixtures("opted_in")
def test_the_page_says_what_it_loads_and_from_where(signed_in: Client) -> None:
    page = signed_in.get(PAGE).content.decode()
    note = page.partition("<details")[2].partition("</details>")[0]
    assert note.startswith(' id="note" open>')
    told = " ".join(re.sub(r"<[^>]+>", "", note).split())
    for words in (
        f"{CDN}/deployments/chatkit/chatkit.js",
        "a frame from the same CDN",
        "api.openai.com",
        "telemetry",
        "OpenAI's terms",
        "no fixed version",
        "does not work without internet",
        "it was never run in them",
    ):
        assert words in told


@pytest.mark.usefixtures("opted_in")
def test_its_policy_allows_the_component_and_no_more(signed_in: Client) -> None:
    assert policy_of(signed_in.get(PAGE)) == {
        "default-src": {"'self'"},
        "script-src": {"'self'", CDN},
        "frame-src": {CDN},
        "connect-src": {"'self'", CDN, "https://api.openai.com"},
        "style-src": {"'self'", "'unsafe-inline'"},
        "img-src": {"'self'", "data:"},
        "object-src": {"'none'"},
        "base-uri": {"'self'"},
        "form-action": {"'self'"},
        "frame-ancestors": {"'none'"},
    }


@pytest.mark.parametrize("path", ["/", "/sign-in", "/chatkit-page/nothing", "/admin/login/"])
def test_no_other_page_changes_its_policy(path: str, signed_in: Client, opted_in: None) -> None:
    signed_in.get(PAGE)
    after = policy_of(signed_in.get(path))
    with override_settings(CHATKIT_PAGE=False):
        assert after == policy_of(signed_in.get(path))
    assert "script-src" not in after
    assert after["default-src"] == {"'self'"}
    assert not any("openai" in source for sources in after.values() for source in sources)


@pytest.mark.usefixtures("opted_in")
def test_no_other_page_needs_the_component(signed_in: Client) -> None:
    for path in ("/", "/sign-in"):
        assert "openai" not in signed_in.get(path, follow=True).content.decode()


@pytest.mark.usefixtures("opted_in")
def test_nothing_on_the_page_is_inline(signed_in: Client) -> None:
    page = signed_in.get(PAGE).content.decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page, re.IGNORECASE)
    scripts = re.findall(r"<script\b[^>]*>([^<]*)</script>", page)
    assert scripts == ["", ""]
    assert re.findall(r'<script\b[^>]* src="([^"]+)"', page) == [
        "/static/conversations/chatkit-page.js",
        f"{CDN}/deployments/chatkit/chatkit.js",
    ]
    # Deferred scripts keep their order: ours is there when the other cannot be loaded.
    assert len(re.findall(r"<script defer ", page)) == len(scripts)


@pytest.mark.usefixtures("opted_in")
def test_its_own_files_are_served(signed_in: Client) -> None:
    page = signed_in.get(PAGE).content.decode()
    addresses = re.findall(r'"(/static/[^"]+)"', page)
    assert len(addresses) == 2

    async def fetch() -> list[httpx.Response]:
        from chatsite.asgi import application

        transport = httpx.ASGITransport(app=application)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as browser:
            return [await browser.get(address) for address in addresses]

    for response in asyncio.run(fetch()):
        assert response.status_code == 200, response.url
        assert response.content


def test_the_page_is_no_part_of_the_api() -> None:
    assert not is_api_path(PAGE)
    assert not re.match(CORS_URLS_REGEX, PAGE)


# The script


def test_the_script_and_the_page_name_the_same_elements(signed_in: Client, opted_in: None) -> None:
    page = signed_in.get(PAGE).content.decode()
    names = re.search(r'\[("[^\]]+")\]\.map', SCRIPT.read_text())
    assert names
    assert set(re.findall(r"\w+", names[1])) <= set(re.findall(r'\sid="([\w-]+)"', page))


def test_the_script_writes_no_html_and_knows_no_address() -> None:
    script = SCRIPT.read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", script)
    assert not re.search(r"https?://", script)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
class TestTheScriptInNode:
    """Run against a stand-in for the page: the real component cannot be loaded here."""

    def run(self, then: str) -> str:
        page = """
        const seen = {calls: [], listeners: {}};
        const element = (id) => ({
          id, hidden: false, textContent: "", classList: {toggle: () => {}},
          addEventListener: (name, heard) => { seen.listeners[`${id}:${name}`] = heard; },
          setOptions: (options) => { seen.options = options; },
        });
        const elements = Object.fromEntries(
          ["chatkit", "component", "status"].map((id) => [id, element(id)]));
        globalThis.document = {
          cookie: "a=b; csrftoken=the-token",
          body: {dataset: {api: "/chatkit", domainKey: "key", signIn: "/sign-in"}},
          getElementById: (id) => elements[id],
        };
        globalThis.location = {
          href: "http://site.test/chatkit-page/", origin: "http://site.test", hash: HASH,
          pathname: "/chatkit-page/", assign: (address) => { seen.left = address; },
        };
        globalThis.history = {replaceState: (_, __, address) => { seen.address = address; }};
        globalThis.matchMedia = () => ({matches: false});
        globalThis.customElements = {whenDefined: async () => {}};
        globalThis.fetch = async (input, init) => {
          seen.calls.push([String(input.url ?? input), init?.credentials ?? null,
            Object.fromEntries(new Headers(init?.headers))]);
          return {status: STATUS};
        };
        """
        source = f"let HASH = '', STATUS = 200;\n{page}\n"
        program = source + "(async () => {" + then.replace("LOAD", SCRIPT.read_text()) + "})();"
        ran = subprocess.run(
            ["node", "-"], input=program, capture_output=True, text=True, timeout=30, check=False
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    def test_the_component_is_told_what_this_site_can(self) -> None:
        told = self.run(
            "LOAD; await null; const {api, ...rest} = seen.options;"
            "console.log(JSON.stringify({url: api.url, key: api.domainKey, "
            "upload: api.uploadStrategy, ...rest}));"
        )
        assert told == (
            '{"url":"/chatkit","key":"key","upload":{"type":"two_phase"},"initialThread":null,'
            '"theme":"light",'
            '"history":{"enabled":true,"showDelete":true,"showRename":true},'
            '"threadItemActions":{"feedback":true,"retry":true},'
            '"composer":{"attachments":{"enabled":true}}}'
        )

    def test_what_it_asks_carries_the_session_and_keeps_its_own_headers(self) -> None:
        sent = self.run(
            "LOAD; await null; await seen.options.api.fetch('/chatkit', "
            "{method: 'POST', headers: {'chatkit-frame-instance-id': 'f'}});"
            "console.log(JSON.stringify(seen.calls));"
        )
        headers = '{"chatkit-frame-instance-id":"f","x-csrftoken":"the-token"}'
        assert sent == f'[["/chatkit","same-origin",{headers}]]'

    def test_a_request_object_keeps_its_headers_too(self) -> None:
        sent = self.run(
            "LOAD; await null; await seen.options.api.fetch("
            "new Request('http://site.test/chatkit', {headers: {'x-one': '1'}}));"
            "console.log(JSON.stringify(seen.calls[0][2]));"
        )
        assert sent == '{"x-csrftoken":"the-token","x-one":"1"}'

    def test_nothing_of_ours_goes_elsewhere(self) -> None:
        sent = self.run(
            "LOAD; await null; await seen.options.api.fetch('https://else.test/up', "
            "{method: 'PUT'}); console.log(JSON.stringify(seen.calls));"
        )
        assert sent == '[["https://else.test/up",null,{}]]'

    def test_who_is_no_longer_signed_in_is_sent_to_sign_in_and_back(self) -> None:
        left = self.run(
            "STATUS = 401; LOAD; await null; await seen.options.api.fetch('/chatkit');"
            "console.log(seen.left);"
        )
        assert left == "/sign-in?next=%2Fchatkit-page%2F"

    def test_the_thread_is_kept_in_the_address_and_opened_from_it(self) -> None:
        thread = "0190a2b0-0000-7000-8000-000000000000"
        kept = self.run(
            f"location.hash = '#{thread}'; LOAD; await null;"
            "const opened = seen.options.initialThread;"
            "seen.listeners['chatkit:chatkit.thread.change']({detail: {threadId: 'next'}});"
            "console.log(opened, seen.address);"
            "seen.listeners['chatkit:chatkit.thread.change']({detail: {threadId: null}});"
            "console.log(seen.address);"
        )
        assert kept == f"{thread} #next\n/chatkit-page/"

    def test_it_says_so_when_the_component_does_not_come_or_fails(self) -> None:
        said = self.run(
            "LOAD; seen.listeners['component:error'](); console.log(elements.status.textContent);"
            "seen.listeners['chatkit:chatkit.error']({detail: {error: new Error('no key')}});"
            "console.log(elements.status.textContent);"
            "seen.listeners['chatkit:chatkit.ready'](); console.log(elements.status.hidden);"
        ).splitlines()
        assert said[0].startswith("The component could not be loaded")
        assert said[1:] == ["The component reports: no key", "true"]
