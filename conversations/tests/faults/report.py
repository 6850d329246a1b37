"""What a run of the harness has found: one line of figures, and every promise that was not kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Report:
    """A run: its seed makes the same choices again, though not the same moments."""

    run: str
    engine: str
    seed: int
    violations: list[str] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)

    def line(self) -> str:
        figures = ", ".join(f"{name} {figure}" for name, figure in self.figures.items())
        outcome = f"{len(self.violations)} VIOLATIONS" if self.violations else "ok"
        return f"{self.run} on {self.engine}, seed {self.seed}: {outcome}; {figures}"

    def assert_kept(self) -> None:
        assert not self.violations, "\n".join([self.line(), *self.violations[:20]])


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which that part of them lies; 0 where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0


def spread(values: Sequence[float], *, scale: float = 1.0, unit: str = "", digits: int = 1) -> str:
    """p50, p95 and max of some values."""
    found = (percentile(values, 0.5), percentile(values, 0.95), max(values, default=0.0))
    figures = "/".join(f"{value * scale:.{digits}f}" for value in found)
    return f"p50/p95/max {figures}{unit}"
