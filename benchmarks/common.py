"""What the measurements share: the replay exchange's control port, the comparison with the truth, the machine's name, tables.

Lives here: helpers without a decision of their own. Does not: starting the platform (soak.py) or a stream (stream_400.py).
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
import requests
from rich.table import Table

from ohlcv_assets.instruments import Market, Universe
from ohlcv_assets.quality.match import match
from ohlcv_assets.replay.truth import Truth
from ohlcv_assets.storage.database import Database
from ohlcv_assets.timestamps import Interval, iso

T = TypeVar("T")
_TIMEOUT_S = 30


class WrongResult(Exception):
    """A measured way gave other bars than it had to: the one reason for which a measurement fails."""


def require(is_right: bool, what: str) -> None:
    """Go on when it is right.

    Raises:
        WrongResult: it is not; `what` says what was measured.
    """
    if not is_right:
        raise WrongResult(f"not the bars that were written: {what}")


@dataclass(frozen=True)
class ReplayServer:
    """A replay exchange that runs at `url`: its command line, and what its control port says."""

    url: str

    @classmethod
    def at_port(cls, port: int) -> ReplayServer:
        """The one that `command` starts at this port."""
        return cls(f"http://127.0.0.1:{port}")

    def command(
        self, *, symbols: int, first_day: date, days: int, seed: int, start_ms: int, speed: float
    ) -> list[str]:
        """The command line of a generated exchange at this address."""
        port = self.url.rpartition(":")[2]
        command = [sys.executable, "-m", "ohlcv_assets.cli", "replay", "--generate", "--port", port]
        command += ["--symbols", str(symbols), "--first-day", first_day.isoformat(), "--days", str(days)]
        return [*command, "--seed", str(seed), "--start", iso(start_ms), "--speed", f"{speed:g}"]

    def answers(self) -> bool:
        """Whether it listens."""
        try:
            return requests.get(f"{self.url}/fapi/v1/ping", timeout=1).ok
        except requests.RequestException:
            return False

    def set_speed(self, speed: float) -> None:
        """Let its clock run at another speed."""
        requests.post(f"{self.url}/_replay/clock", json={"speed": speed}, timeout=_TIMEOUT_S).raise_for_status()

    def inject(self, rules: list[dict[str, Any]]) -> None:
        """Add rules of faults (docs/reference/faults.md)."""
        requests.post(f"{self.url}/_replay/faults", json=rules, timeout=_TIMEOUT_S).raise_for_status()

    def ledger(self) -> list[dict[str, Any]]:
        """What was injected, in order."""
        entries: list[dict[str, Any]] = requests.get(f"{self.url}/_replay/ledger", timeout=_TIMEOUT_S).json()
        return entries

    def stats(self) -> dict[str, Any]:
        """What it counted, and its clock."""
        counted: dict[str, Any] = requests.get(f"{self.url}/_replay/stats", timeout=_TIMEOUT_S).json()
        return counted


@dataclass(frozen=True)
class Verdict:
    """What the database holds of a market's interval, against what the exchange has; all are numbers of bars.

    Attributes:
        expected: bars of the truth.
        stored: rows of the database.
        by_channel: how the stored ones came.
        lost: bars of the truth that are not stored.
        duplicated: rows beyond the first of their key.
        wrong: stored bars with another value than the truth, or that the truth does not have.
        revisions: later captures that differed.
    """

    market: Market
    expected: int
    stored: int
    by_channel: dict[str, int]
    lost: int
    duplicated: int
    wrong: int
    revisions: int

    @property
    def perfect(self) -> bool:
        """Whether every bar is there, once, and right."""
        return self.expected > 0 and not (self.lost or self.duplicated or self.wrong)


def judge(database: Database, truth: Truth, market: Market, interval: Interval) -> Verdict:
    """Compare what the database holds with the truth, bit for bit."""
    expected = truth[market].filter(pl.col("timestamp").is_between(interval.start_ms, interval.end_ms, closed="left"))
    held = database.read(market, interval)
    report = match(expected, held)
    return Verdict(
        market=market,
        expected=expected.height,
        stored=held.height,
        by_channel=dict(Counter(held["channel"].to_list())),
        lost=report.only_left,
        duplicated=report.duplicate_right,
        wrong=report.differing + report.only_right,
        revisions=database.revisions(market, interval).height,
    )


def universe_of(truth: Truth, version_name: str) -> Universe:
    """A universe of everything that the exchange has."""
    return Universe.of(version_name, {market: bars["symbol"].unique().to_list() for market, bars in truth.items()})


def machine() -> list[str]:
    """This machine and the versions that matter, a line each."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("dagster", "ccxt", "polars", "psycopg"))
    return [
        f"{os.cpu_count()} cores of {_cpu_model()}, {_memory_gib():.0f} GiB, {platform.system()}",
        f"Python {platform.python_version()}, {versions}",
    ]


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _memory_gib() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def market_table(title: str, rows: dict[str, Callable[[Market], object]]) -> Table:
    """A row a number, a column a market."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for market in Market:
        table.add_column(market.value, justify="right")
    for name, cell in rows.items():
        table.add_row(name, *(_shown(cell(market)) for market in Market))
    return table


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a Markdown table: text in the first column, numbers, to the right, in the others."""
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    return [*lines, *(f"| {' | '.join(map(_shown, row))} |" for row in rows)]


def median_s(action: Callable[[], T], times: int) -> tuple[float, T]:
    """Seconds of the median of so many calls, after one that is not counted, and what the last one gave."""
    result, taken_s = action(), []
    for _ in range(times):
        began_s = time.perf_counter()
        result = action()
        taken_s.append(time.perf_counter() - began_s)
    return statistics.median(taken_s), result


def once_s(action: Callable[[], T]) -> tuple[float, T]:
    """Seconds of one call, and what it gave."""
    began_s = time.perf_counter()
    result = action()
    return time.perf_counter() - began_s, result
