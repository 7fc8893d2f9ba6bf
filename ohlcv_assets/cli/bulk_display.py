"""What `ohlcv download-bulk` and `ohlcv backfill-db` show: a bar with rate and time left on a terminal, lines elsewhere, JSON for machines.

Lives here: the three displays. Does not: any number (bulk_plan.py, bulk.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import polars as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from ohlcv_assets.bulk import Done
from ohlcv_assets.bulk_plan import Plan
from ohlcv_assets.quality.backfill import named_ranges
from ohlcv_assets.timestamps import iso

#: How often progress is told where nothing can be drawn.
_LINE_EVERY_S, _JSON_EVERY_S = 60.0, 5.0


class Display:
    """A few lines, for a person who reads a log."""

    every_s = _LINE_EVERY_S

    def __init__(self) -> None:
        self._started_s = self._told_s = time.monotonic()
        self._expected = 0

    def plan(self, plan: Plan, *, dry_run: bool = False) -> None:
        """What is going to be fetched; what it may take at most is told who has not begun."""
        self._started_s = self._told_s = time.monotonic()
        self._expected = plan.bars
        for line in _planned(plan):
            print(line, flush=True)
        if dry_run and plan.absence_requests:
            print(_at_most(plan), flush=True)

    def done(self, done: Done) -> None:
        """How far it is; told often."""
        now_s = time.monotonic()
        if now_s - self._told_s >= self.every_s:
            self._told_s = now_s
            self.progress(done)

    def progress(self, done: Done) -> None:
        """How far it is; told now and then."""
        print(f"{done.bars:,} of {self._expected:,} bars, {self._pace(done)}", flush=True)

    def report(self, words: str, facts: Mapping[str, Any], missing: pl.DataFrame | None) -> None:
        """The end: a sentence, its numbers, and what is missing (None: nobody looked)."""
        print(words, flush=True)
        for symbol, ranges in _named(missing).items():
            print(f"missing: {symbol} {', '.join(ranges)}", flush=True)

    def _taken_s(self) -> float:
        return max(time.monotonic() - self._started_s, 1e-6)

    def _pace(self, done: Done) -> str:
        """Rate and time left, by the pace since the beginning: budgets are spent in bursts."""
        rate = done.bars / self._taken_s()
        left = str(timedelta(seconds=round((self._expected - done.bars) / rate))) if rate else "-"
        return f"{rate:,.0f} bars/s, {left} left, {done.days} days stored"


class JsonDisplay(Display):
    """One JSON object a line; the last one is the report."""

    every_s = _JSON_EVERY_S

    def plan(self, plan: Plan, *, dry_run: bool = False) -> None:
        """What is going to be fetched."""
        self._started_s = self._told_s = time.monotonic()
        self._say("plan", **plan.facts())

    def progress(self, done: Done) -> None:
        """How far it is."""
        self._say("progress", **done.facts(), taken_s=self._taken_s())

    def report(self, words: str, facts: Mapping[str, Any], missing: pl.DataFrame | None) -> None:
        """The end."""
        self._say("report", **facts, taken_s=self._taken_s(), missing=None if missing is None else _named(missing))

    def _say(self, event: str, **facts: Any) -> None:
        print(json.dumps({"event": event, **facts}), flush=True)


class BarDisplay(Display):
    """A progress bar that is drawn in place."""

    every_s = 0.1

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._task: TaskID | None = None

    def plan(self, plan: Plan, *, dry_run: bool = False) -> None:
        """What is going to be fetched."""
        super().plan(plan, dry_run=dry_run)
        self._task = self._progress.add_task("bars", total=plan.bars, pace="")

    def progress(self, done: Done) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.update(self._task, completed=done.bars, pace=self._pace(done))

    def report(self, words: str, facts: Mapping[str, Any], missing: pl.DataFrame | None) -> None:
        """The end."""
        self._progress.stop()
        super().report(words, facts, missing)


@contextmanager
def open_display(*, as_json: bool) -> Iterator[Display]:
    """The display that fits where standard output goes."""
    console = Console()
    if as_json:
        yield JsonDisplay()
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            yield BarDisplay(progress)
    else:
        yield Display()


def _planned(plan: Plan) -> Iterator[str]:
    are = "day is" if plan.days_there == 1 else "days are"
    there = f", {plan.days_there} {are} there already" if plan.days_there else ""
    there += f", {plan.days_empty} without any bar" if plan.days_empty else ""
    cut = (
        f" (cut off at {iso(plan.cut_at_ms)}: what comes after is not finished)" if plan.cut_at_ms is not None else ""
    )
    if plan.listed_from_ms is not None:
        yield f"nothing was listed before {iso(plan.listed_from_ms)}: what comes before it is left out"
    yield f"{plan.interval}{cut}: {plan.days} {'day' if plan.days == 1 else 'days'} to fetch{there}"
    yield (
        f"{plan.bars:,} bars, {plan.requests:,} requests, weight {plan.weight:,}: "
        f"{plan.minutes:,} min of the exchange's budget ({plan.weight_a_minute:,} a minute)"
    )


def _at_most(plan: Plan) -> str:
    """What it takes when all turns out to be absent that can be; a symbol whose listing is known costs no more than the plan."""
    most = plan.facts()
    return (
        f"at most {most['requests_at_most']:,} requests, weight {most['weight_at_most']:,}: where a symbol has no bar, and nobody says since "
        "when it is listed, that takes a second answer"
    )


def _named(missing: pl.DataFrame | None) -> dict[str, list[str]]:
    if missing is None:
        return {}
    return {symbol: [str(each) for each in ranges] for symbol, ranges in named_ranges(missing).items()}
