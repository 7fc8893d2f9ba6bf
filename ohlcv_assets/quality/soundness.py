"""Soundness: does every bar obey every invariant of bars.py?

Lives here: the count of what is broken, by the invariant's name. Does not: the invariants themselves (bars.py), or the
same said again by Great Expectations (expectations.py). Unlike `bars.validate`, the gate of the stores, this looks at bars that are
already stored and goes on after the first broken one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from ohlcv_assets.bars import INVARIANTS, conform, violations


@dataclass(frozen=True)
class Soundness:
    """What was found in a set of bars.

    Attributes:
        rows: bars looked at.
        broken: per invariant, by its name and in the order of bars.py, how many bars break it; all are listed.
        violations: `invariant, market, symbol, timestamp`, one row each, in that order of invariants, then by key.
    """

    rows: int
    broken: Mapping[str, int]
    violations: pl.DataFrame

    @property
    def is_sound(self) -> bool:
        """Whether there are bars and none breaks an invariant."""
        return self.rows > 0 and self.violations.is_empty()

    @property
    def broken_names(self) -> tuple[str, ...]:
        """The names of the invariants that some bar breaks, in the order of bars.py."""
        return tuple(name for name, times in self.broken.items() if times)


def soundness(frame: pl.DataFrame) -> Soundness:
    """Check every bar against every invariant.

    Args:
        frame: rows with the key and value columns of a bar.

    Raises:
        InvalidBars: a key or value column is absent or of another dtype.
    """
    bars = conform(frame)
    found = violations(bars.sort("market", "symbol", "timestamp"))
    counted = dict(found.group_by("invariant").len().iter_rows())
    broken = {invariant.name: counted.get(invariant.name, 0) for invariant in INVARIANTS}
    return Soundness(bars.height, broken, found)
