"""What a verification of history found: a day at a time, and all together, in numbers and in words.

Lives here: the outcomes and how they are told. Does not: how they are found (history.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum

import polars as pl

from ohlcv_assets.quality.match import DIFFERENCES_SCHEMA

#: The list of differences: those of a match, whose left side is what the lake held, under names that say so.
CHANGES_SCHEMA: dict[str, pl.DataType] = {
    {"left": "before", "right": "after"}.get(name, name): dtype for name, dtype in DIFFERENCES_SCHEMA.items()
}


class Outcome(StrEnum):
    """What became of one day."""

    UNCHANGED = "unchanged"
    REPLACED = "replaced"  # the exchange changed it; the lake has a new version
    VANISHED = "vanished"  # the exchange lacks bars that the lake holds; nothing was replaced
    UNSETTLED = "unsettled"  # two fetches in a row disagree; nothing was replaced
    DAMAGED = "damaged"  # the lake's own file is not what was written
    ABSENT = "absent"  # the lake does not hold it: skipped
    UNAVAILABLE = "unavailable"  # it could not be fetched, or the lake did not answer


_IS_FINDING = frozenset({Outcome.REPLACED, Outcome.VANISHED, Outcome.UNSETTLED, Outcome.DAMAGED})
_NOT_VERIFIED = frozenset({Outcome.ABSENT, Outcome.UNAVAILABLE})


@dataclass(frozen=True)
class DayVerified:
    """What was found of one day.

    Attributes:
        day: UTC.
        outcome: what became of it.
        bars: that the lake held.
        changed: bars with another value; `appeared` only the exchange has, `vanished` only the lake.
        unlisted: symbols that the exchange lists no more: their bars cannot be asked for, and stay as they are.
        hash_before: content hash of what the lake held; `hash_after` of what the exchange says now.
        changes: `CHANGES_SCHEMA`, one row a differing column or a bar that came or went.
        differences: where the Parquet of these is, or None.
        replaced_key: where the former file is kept, or None.
        reason: of an outcome that is an error.
    """

    day: date
    outcome: Outcome
    bars: int = 0
    changed: int = 0
    appeared: int = 0
    vanished: int = 0
    unlisted: tuple[str, ...] = ()
    hash_before: str = ""
    hash_after: str = ""
    changes: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=CHANGES_SCHEMA))
    differences: str | None = None
    replaced_key: str | None = None
    reason: str = ""

    @property
    def is_finding(self) -> bool:
        """Whether a person has to know."""
        return self.outcome in _IS_FINDING

    @property
    def digest(self) -> str:
        """The same for the same finding: its day, what became of it, and both contents."""
        told = "/".join((self.day.isoformat(), self.outcome, self.hash_before, self.hash_after))
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        if self.outcome is Outcome.REPLACED:
            return f"the exchange changed history on {self.day}: {self._counts()}"
        if self.outcome is Outcome.VANISHED:
            return f"the exchange lacks bars of {self.day} that the lake holds: {self._counts()}; nothing is replaced"
        if self.outcome is Outcome.UNSETTLED:
            return f"the exchange says two things of {self.day}, one after the other: nothing is replaced"
        return f"{self.day}: {self.reason or self.outcome}"

    def detail(self) -> dict[str, str | int | None]:
        """The day in numbers, and both contents, as JSON can hold them."""
        return {
            "day": self.day.isoformat(),
            "sentence": self.sentence,
            "bars": self.bars,
            "bars_changed": self.changed,
            "bars_appeared": self.appeared,
            "bars_vanished": self.vanished,
            "hash_before": self.hash_before,
            "hash_after": self.hash_after,
            "differences": self.differences,
        }

    def _counts(self) -> str:
        counts = {"changed": self.changed, "appeared": self.appeared, "vanished": self.vanished}
        return ", ".join(f"{_bars(count)} {name}" for name, count in counts.items() if count)


@dataclass(frozen=True)
class Verification:
    """What was found of several days, in the order in which they were asked."""

    market: str
    days: tuple[DayVerified, ...]

    def of(self, *outcomes: Outcome) -> list[DayVerified]:
        """The days with one of these outcomes."""
        return [day for day in self.days if day.outcome in outcomes]

    @property
    def findings(self) -> list[DayVerified]:
        """The days that a person has to know of."""
        return [day for day in self.days if day.is_finding]

    @property
    def skipped(self) -> list[DayVerified]:
        """The days that the lake does not hold: nothing could be compared."""
        return self.of(Outcome.ABSENT)

    @property
    def is_unchanged(self) -> bool:
        """Whether nothing was found; days that could not be verified are no finding."""
        return not self.findings

    @property
    def unavailable(self) -> DayVerified | None:
        """The day at which the verification had to stop, or None."""
        return next(iter(self.of(Outcome.UNAVAILABLE)), None)

    def summary(self) -> dict[str, int]:
        """The counts under the names that metadata and reports use."""
        return {
            "days_verified": len(self.days) - len(self.of(*_NOT_VERIFIED)),
            "days_changed": len(self.findings),
            "days_replaced": len(self.of(Outcome.REPLACED)),
            "days_not_in_lake": len(self.of(Outcome.ABSENT)),
            "bars_verified": sum(day.bars for day in self.days),
            "bars_changed": sum(day.changed for day in self.days),
            "bars_appeared": sum(day.appeared for day in self.days),
            "bars_vanished": sum(day.vanished for day in self.days),
        }

    def sentence(self) -> str:
        """What was found, in words: the first findings, or that there is none; and what was skipped."""
        numbers = self.summary()
        found = "; ".join(day.sentence for day in self.findings[:5])
        if len(self.findings) > 5:
            found += f"; and {len(self.findings) - 5} more days"
        told = [found or _nothing(numbers["days_verified"])]
        if self.skipped:
            told.append(f"not in the lake: {day_ranges([day.day for day in self.skipped])}")
        if self.unavailable:
            told.append(f"stopped at {self.unavailable.sentence}")
        return "; ".join(told)

    def changes(self) -> pl.DataFrame:
        """Every difference of every day: `day` (Date), then `CHANGES_SCHEMA`."""
        frames = [day.changes.select(pl.lit(day.day).alias("day"), pl.all()) for day in self.findings]
        return pl.concat([pl.DataFrame(schema={"day": pl.Date(), **CHANGES_SCHEMA}), *frames])

    def digest(self) -> str:
        """The same for the same findings; empty where there are none."""
        digests = "/".join(day.digest for day in self.findings)
        return hashlib.sha256(digests.encode()).hexdigest()[:16] if digests else ""


def _nothing(days: int) -> str:
    return f"nothing changed; days compared: {days:,}" if days else "nothing was compared"


def _bars(count: int) -> str:
    return f"{count:,} bar" if count == 1 else f"{count:,} bars"


def day_ranges(days: Sequence[date]) -> str:
    """Days as people name them: `2025-06-01 to 2025-06-03, 2025-06-05`.

    Args:
        days: in order.
    """
    runs: list[list[date]] = []
    for day in days:
        if runs and day - runs[-1][-1] == timedelta(days=1):
            runs[-1].append(day)
        else:
            runs.append([day])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
