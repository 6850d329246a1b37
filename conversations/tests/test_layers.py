"""Which module may know which: imports only go down, and each SDK has its few rooms."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from conversations.tests.other_process import run_python

# A module imports only from floors below its own, and from its own package.
FLOORS: dict[int, str] = {
    12: "api web apps management",  # the doors: HTTP, the web process, commands
    11: "chatkit_server",  # the official protocol: who answers, and below it on what
    10: "chatkit_turns",  # its requests that are turns
    9: "chatkit_messages",
    8: "chatkit_store chatkit_events",  # what is stored, and a turn in its words
    7: "chatkit_answers chatkit_attachments chatkit_converter",
    6: "chatkit_context health",
    5: "threads account demo supervisor checks admin tasks schedules queued worker",
    # what happens to it
    4: "turns sweeps feedback retention holds removals erasure exports measuring"
    " metrics task_results rights",
    # the agent, its memory, its items, files, and who may come in
    3: "assistant agents_session thread_items thread_metadata attachments tokens throttle traces"
    " task_runs reclaim",  # and what the worker did
    2: "store",  # the rows of one session, by hand-written SQL
    # tables, the way to them, an item as a row, what a process counts
    1: "models lanes items tally markdown attachment_storage",
    # words and pure rules: no HTTP, no ORM
    0: "errors events ids media conf signals sqlite processes history exposition",
}

# Who may know which library; a name stands for a module or a whole package.
ROOMS: dict[str, str] = {
    "ninja": "api",
    "agents": "assistant items agents_session turns chatkit_server chatkit_turns",
    "openai": "assistant items agents_session turns chatkit_server chatkit_turns chatkit_converter",
    "chatkit": "thread_items thread_metadata assistant turns chatkit_context chatkit_attachments"
    " chatkit_converter chatkit_events chatkit_messages chatkit_store"
    " chatkit_turns chatkit_server api.chatkit",
    "django_q": "schedules tasks queued admin task_results worker",
    "uvicorn": "web",
    "sqlite3": "sqlite",
    "pysqlite3": "sqlite",
    "psycopg": "lanes",
    "jiter": "items",
    "prometheus_client": "exposition",
    "markdown_it": "markdown",
    "nh3": "markdown",
}

PACKAGE = Path(__file__).resolve().parents[1]
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names.split()}


def module_name(path: Path) -> str:
    """The dotted name below `conversations`: `api.threads`, `lanes`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


SOURCES = {
    module_name(path): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.relative_to(PACKAGE).parts[0] not in {"tests", "migrations", "__init__.py"}
}


def imports_of(source: str) -> Iterator[str]:
    """Every module the source imports, wherever in it, also by `import_module("its.name")`."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom():
                assert node.level == 0, "imports are absolute"
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            case ast.Call(args=[ast.Constant(value=str(name)), *_]):
                called = ast.unparse(node.func).rpartition(".")[2]
                if called in {"import_module", "__import__", "import_string"}:
                    yield name


def own_room(module: str) -> str:
    return module.partition(".")[0]


def is_in(module: str, rooms: str) -> bool:
    return any(module == room or module.startswith(room + ".") for room in rooms.split())


@pytest.mark.parametrize("module", SOURCES)
def test_a_module_imports_only_from_below(module):
    here = FLOOR_OF[own_room(module)]
    for name in imports_of(SOURCES[module].read_text()):
        top, _, below = name.partition(".")
        if top != "conversations":
            continue
        there = own_room(below)
        if there != own_room(module):
            assert FLOOR_OF[there] < here, f"{module} (floor {here}) imports {name}"


def test_every_module_has_a_floor():
    assert {own_room(module) for module in SOURCES} <= set(FLOOR_OF)


@pytest.mark.parametrize("module", SOURCES)
def test_a_library_is_known_only_in_its_rooms(module):
    for name in imports_of(SOURCES[module].read_text()):
        rooms = ROOMS.get(own_room(name))
        assert rooms is None or is_in(module, rooms), f"{module} imports {name}"


@pytest.mark.parametrize("module", SOURCES)
def test_the_app_knows_nothing_of_the_site_it_is_in(module):
    assert not [name for name in imports_of(SOURCES[module].read_text()) if "chatsite" in name]


def test_an_import_inside_a_function_is_seen_and_one_by_name_too():
    source = """
if True:
    def work():
        from conversations import lanes, turns
        import openai.types
        importlib.import_module("conversations.web").run()
"""
    assert list(imports_of(source)) == [
        "conversations.lanes",
        "conversations.turns",
        "openai.types",
        "conversations.web",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        "migrate --check",
        "check",
        "--help",
        "session_stats",
        "prune_sessions",
        "clear_session 1",
        "export_sessions",
        "erase_user x",
        "backup_database x/y",
    ],
)
def test_a_command_that_runs_no_agent_does_not_import_the_sdk(arguments, tmp_path):
    loaded = run_python(
        """
        import sys
        import chatsite
        from django.core.management import execute_from_command_line
        try:
            execute_from_command_line(["manage.py", *sys.argv[1:]])
        except SystemExit:
            pass
        import django
        assert django.apps.apps.ready
        print("\\nloaded:", [name for name in ("agents", "openai") if name in sys.modules])
        """,
        *arguments.split(),
        DATABASE_URL="",
        AGENT_SESSION_DB_PATH=str(tmp_path / "empty.db"),
    )
    assert loaded.endswith("loaded: []")


def test_the_tables_are_known_without_the_sdk():
    loaded = run_python(
        """
        import sys
        import chatsite, django
        django.setup()
        import conversations.api.urls, conversations.threads, conversations.turns
        print("agents" in sys.modules)
        """
    )
    assert loaded == "False"
