"""The text that Prometheus reads."""

from __future__ import annotations

from conversations.exposition import Family, Sample, render


def test_a_family_is_its_help_its_kind_and_its_samples() -> None:
    family = Family(
        "turns_total",
        "counter",
        "Turns\nand \\ more.",
        (Sample(3), Sample(2.5, (("status", 'say "no"\n'), ("by", "a\\b")))),
    )
    assert render([family]) == (
        "# HELP turns_total Turns\\nand \\\\ more.\n"
        "# TYPE turns_total counter\n"
        "turns_total 3.0\n"
        'turns_total{by="a\\\\b",status="say \\"no\\"\\n"} 2.5\n'
    )


def test_large_and_small_numbers_keep_what_they_say() -> None:
    samples = (Sample(1_795_628_264.123), Sample(2**40), Sample(0.000001), Sample(0))
    lines = render([Family("x", "gauge", "X.", samples)]).splitlines()[2:]
    assert [float(line.split()[1]) for line in lines] == [1_795_628_264.123, 2**40, 0.000001, 0]


def test_nothing_is_an_empty_page() -> None:
    assert render([]) == ""
