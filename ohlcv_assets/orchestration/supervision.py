"""Which streaming runs must be started now, from what must be there and what Dagster says is there.

Lives here: the decision, as a pure function of the time and of the runs that were started so far. Does not: asking
Dagster or the database, or starting anything (sensors.py).

An hour of a market, or a part of it, is a slot. It must have a run that is alive or ended well; one whose run died, or whose
bars stopped arriving, gets another, which fetches what was missed and never overwrites. Hours that were missed while
nobody looked are started late: their runs end as soon as everything is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ohlcv_assets.timestamps import HOUR_MS, floor_to

#: Bars of a minute are there some seconds after it; when none has come for so long, the run that should bring them is
#: not doing so, whatever it says.
STALLED_AFTER_S = 75.0
#: A slot whose runs keep failing is tried again later and later, at most so many seconds apart.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 10.0, 300.0
_LONGEST_PATIENCE_S = 1200.0
#: How far back holes are looked for, in hours.
LOOK_BACK_HOURS = 24


@dataclass(frozen=True)
class StartedRun:
    """A run of a slot: whether it is alive, whether it ended well, and the age of its start and end in our seconds."""

    run_id: str
    alive: bool
    succeeded: bool
    started_s_ago: float
    ended_s_ago: float | None = None


@dataclass(frozen=True)
class Slot:
    """One hour of a market, or the `shard`th (from 1) of `shards` parts of it."""

    hour_ms: int
    shard: int = 1
    shards: int = 1

    @property
    def part(self) -> str:
        """`1/4` for the first of four parts."""
        return f"{self.shard}/{self.shards}"


@dataclass(frozen=True)
class Start:
    """A run to be started for a slot: the how-manyth, and the stalled one that it replaces."""

    slot: Slot
    attempt: int
    instead_of: str | None = None


def hours_to_stream(now_ms: int, lead_s: float) -> list[int]:
    """The hours that must have a streaming run: this one, and the next once it is `lead_s` seconds away.

    Args:
        now_ms: the exchange's time, UNIX milliseconds.
        lead_s: how long before its hour a run starts, in seconds of the exchange.

    Returns:
        Starts of hours, UNIX milliseconds.
    """
    this_hour = floor_to(now_ms, HOUR_MS)
    upcoming = floor_to(now_ms + int(lead_s * 1000), HOUR_MS)
    return list(range(this_hour, upcoming + HOUR_MS, HOUR_MS))


def missed_hours(now_ms: int, known_hours: Sequence[int]) -> list[int]:
    """The past hours that must have had a run: from the first that ever had one, a day back at most.

    Args:
        now_ms: the exchange's time.
        known_hours: the hours that any run was started for.
    """
    this_hour = floor_to(now_ms, HOUR_MS)
    earliest = min((hour for hour in known_hours if hour < this_hour), default=this_hour)
    return list(range(max(earliest, this_hour - LOOK_BACK_HOURS * HOUR_MS), this_hour, HOUR_MS))


def runs_to_start(
    slots: Sequence[Slot], runs: Mapping[Slot, Sequence[StartedRun]], stalled: Mapping[Slot, bool]
) -> list[Start]:
    """What to start so that every slot has its run.

    Args:
        slots: what must be there.
        runs: the runs of each slot so far, in any order.
        stalled: slots whose bars stopped arriving although a run says that it is alive.
    """
    wanted = ((slot, _decide(runs.get(slot, ()), stalled=stalled.get(slot, False))) for slot in slots)
    return [Start(slot, len(runs.get(slot, ())), instead_of) for slot, (wants, instead_of) in wanted if wants]


def _decide(runs: Sequence[StartedRun], *, stalled: bool) -> tuple[bool, str | None]:
    """Whether the slot needs a run, and which stalled run it would replace."""
    alive = [run for run in runs if run.alive]
    if alive:
        newest = min(alive, key=lambda run: run.started_s_ago)
        # A run that has just begun has had no time to bring anything; and where replacing it did not help, as while
        # the exchange itself stands still, the next one is given twice the time.
        patience_s = min(_LONGEST_PATIENCE_S, STALLED_AFTER_S * 2 ** (len(runs) - 1))
        replace = stalled and newest.started_s_ago > patience_s
        return replace, newest.run_id if replace else None
    if any(run.succeeded for run in runs):
        return False, None
    last_end_s = min((run.ended_s_ago for run in runs if run.ended_s_ago is not None), default=None)
    return last_end_s is None or last_end_s >= pause_s(len(runs)), None


def pause_s(failures: int) -> float:
    """How long to wait after so many failures: nothing after the first, then ten seconds, doubled each time."""
    return 0.0 if failures <= 1 else min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (failures - 2))
