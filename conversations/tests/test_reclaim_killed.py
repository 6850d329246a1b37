"""A process is killed while it clears pages, beside one that writes: nothing is lost."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from conversations import sqlite
from conversations.tests.other_process import SITE, finish, run_python, start_python
from conversations.tests.test_reclaim import connect, delete, fill, found, give_back, plant

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

WRITER = (
    SITE
    + """
    import json, random
    from pathlib import Path
    from conversations.tests.test_reclaim import connect

    path, ended = map(Path, sys.argv[1:])
    raw, written = connect(path), {}
    raw.execute("PRAGMA busy_timeout=20000")
    print("begun", flush=True)
    while not ended.exists():
        key, text = f"{random.getrandbits(128):032x}", "c" * random.choice([3, 400, 5000])
        raw.execute("INSERT INTO row VALUES (?, 'C', ?, 'c')", (key, text))
        written[key] = len(text)
        if random.random() < 0.3:
            key = random.choice(list(written))
            raw.execute("UPDATE row SET text = text || '.' WHERE id = ?", (key,))
            written[key] += 1
    print(json.dumps(written))
"""
)
KILLED = (
    SITE
    + """
    import json, random, signal
    from pathlib import Path
    from conversations.sqlite import scrubbing
    from conversations.tests.test_reclaim import give_back

    scrubbing.PAGES_AT_ONCE, killed = 20, 0
    chance, pwrite = random.Random(1), os.pwrite

    def work(path, left):
        def counting(descriptor, content, at):
            nonlocal left
            left -= 1
            if left == 0:
                pwrite(descriptor, content[: len(content) // 2], at)
                os.kill(os.getpid(), signal.SIGKILL)
            return pwrite(descriptor, content, at)
        os.pwrite = counting
        give_back(Path(path))

    for _ in range(8):
        left = chance.randrange(1, 30)
        child = os.fork()
        if not child:
            try:
                work(sys.argv[1], left)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        end = os.waitpid(child, 0)[1]
        assert end in (0, signal.SIGKILL), end
        killed += end == signal.SIGKILL
    print(killed)
"""
)


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_killed_in_the_middle_of_a_page_it_leaves_a_whole_file(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(sqlite, "journal_mode", lambda: mode)
    path, ended = tmp_path / "data" / "x.db", tmp_path / "ended"
    sqlite.prepare_file(str(path))
    with closing(connect(path)) as raw:
        fill(raw)
        delete(raw, "A")
        kept = raw.execute("SELECT * FROM row ORDER BY id").fetchall()
    assert plant(path) > 50
    writer = start_python(WRITER, str(path), str(ended))
    assert writer.stdout is not None
    try:
        assert writer.stdout.readline() == "begun\n"
        killed = int(run_python(KILLED, str(path)))
    finally:
        ended.touch()
        written = json.loads(finish(writer))
    assert killed > 2
    with closing(connect(path)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        others = "SELECT * FROM row WHERE whose != 'C' ORDER BY id"
        assert raw.execute(others).fetchall() == kept
        sizes = raw.execute("SELECT id, LENGTH(text) FROM row WHERE whose = 'C'")
        assert dict(sizes.fetchall()) == written
    assert give_back(path).is_clean
    assert found(path)[0] == 0
