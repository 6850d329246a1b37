"""The command that erases a person is killed, again and again: called once more, it goes on."""

from __future__ import annotations

import json

import pytest
from django.contrib.auth import get_user_model
from django.utils import timezone

from conversations import erasure, lanes, reclaim, sweeps
from conversations.models import OpenRemoval
from conversations.store import ledger
from conversations.tests.erasure_helpers import Person, count, signed_in, unnamed
from conversations.tests.ledger_helpers import entries
from conversations.tests.other_process import SITE, run_command, run_python
from conversations.tests.sweeps_helpers import remember

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

KILLED = (
    SITE
    + """
    import json, random, signal
    from django.core.management import execute_from_command_line
    from django.db import connection
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.contrib.auth import get_user_model
    from conversations.lanes.database import DjangoDatabase, SqliteDatabase
    from conversations.store import erasing

    name, seed = sys.argv[1:]
    erasing.erase_some.__kwdefaults__["rows"] = 3
    chance, ends = random.Random(int(seed)), []

    def work(left):
        def step():
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        def counted(owner, method):
            act = getattr(owner, method)
            def counting(*args, **options):
                step()
                outcome = act(*args, **options)
                step()
                return outcome
            setattr(owner, method, counting)
        for owner, method in (
            (SqliteDatabase, "_execute"), (DjangoDatabase, "_execute"),
            (BaseDatabaseWrapper, "_commit"), (os, "remove"), (os, "pwrite"),
        ):
            counted(owner, method)
        def wrapped(execute, *args):
            step()
            return execute(*args)
        with connection.execute_wrapper(wrapped):
            execute_from_command_line(["manage.py", "erase_user", name, "--no-input"])

    def is_there():
        there = get_user_model().objects.filter(username=name).exists()
        connection.close()
        return there

    while is_there() and len(ends) < 12:
        left = chance.randrange(60, 400)
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            try:
                work(left)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        ends.append(os.waitpid(child, 0)[1])
        assert ends[-1] in (0, signal.SIGKILL), ends
    print(json.dumps(ends))
"""
)


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_again_and_again_the_command_comes_to_the_same_end(seed):
    gone, other = Person(), Person()
    gone.settle(other.session)
    other.settle(gone.session)
    for _ in range(3):
        remember(gone.speak(hold_reason=""), 4)
    reclaim.reclaim_space()
    kept = count(other.word)
    expected = erasure.preview(user_id=gone.user.pk, now=timezone.now(), scope="account")
    ends = json.loads(run_python(KILLED, gone.word, str(seed)))
    assert 9 in ends
    if get_user_model().objects.filter(pk=gone.user.pk).exists():
        last = run_command("erase_user", gone.word, "--no-input")
        assert last.returncode == 0, last.stderr
    sweeps.sweep_orphans(now=timezone.now())  # for one that was killed after all was removed
    (told,) = entries()
    counts = dict(expected.counts)
    assert (told["action"], told["byte_count"]) == ("erase", counts.pop("bytes"))
    assert told["counts"] == counts
    assert lanes.look_up(ledger.verify).is_whole
    assert not OpenRemoval.objects.exists()
    assert (count(gone.word), signed_in(gone)) == (0, 0)
    # But for what they thought of what the other had said.
    assert (count(other.word), signed_in(other)) == (kept - 1, 1)
    assert unnamed(other) == []
