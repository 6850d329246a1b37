"""What a process counts: exact with many threads, in the groups a histogram has."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from conversations import tally
from conversations.exposition import Sample


def test_a_count_grows_for_each_set_of_labels() -> None:
    count = tally.Count("turns_total", "Turns.")
    assert count.family().samples == (Sample(0),)
    count.increase(status="failed")
    count.increase(2, status="completed")
    count.increase(status="completed")
    assert count.family().samples == (
        Sample(3, (("status", "completed"),)),
        Sample(1, (("status", "failed"),)),
    )


def test_threads_lose_nothing() -> None:
    count, durations = tally.Count("c", "C."), tally.Durations("d", "D.")

    def work(_: int) -> None:
        for _number in range(500):
            count.increase()
            durations.observe(1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert count.family().samples == (Sample(4_000),)
    assert durations.family().samples[-1] == Sample(4_000, suffix="_count")


def test_a_duration_is_counted_in_its_group_and_all_above() -> None:
    durations = tally.Durations("turn_seconds", "Turns.")
    for seconds in (0.05, 0.1, 0.3, 400):
        durations.observe(seconds)
    *buckets, total, count = durations.family().samples
    reached = {dict(sample.labels)["le"]: sample.value for sample in buckets}
    assert [reached[bound] for bound in ("0.1", "0.25", "0.5", "300", "+Inf")] == [2, 2, 3, 3, 4]
    assert (total.value, count.value) == (400.45, 4)


def test_every_family_has_a_name_of_its_own() -> None:
    families = list(tally.families())
    names = [family.name for family in families]
    assert len(set(names)) == len(names) == 9
    assert all(name.startswith("conversations_") for name in names)
    assert all(family.help.endswith(".") for family in families)
