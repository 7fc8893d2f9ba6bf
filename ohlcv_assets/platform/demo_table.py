"""The table that the demo ends with.

Lives here: which numbers a person is shown, and under which names. Does not: getting them (demo.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

from rich.table import Table

from ohlcv_assets.instruments import Market


@dataclass(frozen=True)
class MarketResult:
    """What the demo found of one market.

    Attributes:
        market: the market.
        check: the numbers of the check that both sides are equal.
        hour: the numbers of the hour that was streamed live.
        delay_s: d, in exchange seconds.
        seconds: how long each run's code took, by step.
        complete: what the check of completeness says of the streamed side, in words.
    """

    market: Market
    check: dict[str, Any]
    hour: dict[str, Any]
    delay_s: float
    seconds: dict[str, float]
    complete: str = ""

    @property
    def matches(self) -> bool:
        """Whether both sides are the same, and whole."""
        return (
            bool(self.check["passed"])
            and not self.check["bars_missing_streamed"]
            and not self.check["bars_missing_fetched"]
        )


@dataclass(frozen=True)
class DemoResult:
    """What the demo shows in the end."""

    day: date
    markets: list[MarketResult]
    corrupted: str
    seconds: dict[str, float]
    location: str

    @property
    def matches(self) -> bool:
        """Whether every market matches 100 %."""
        return all(result.matches for result in self.markets)

    def table(self) -> Table:
        """A row a number, a column a market, for a terminal."""
        table = Table(title=self.title, title_justify="left")
        table.add_column("")
        for result in self.markets:
            table.add_column(result.market.value, justify="right")
        for row in self.rows():
            table.add_row(*row, end_section=row[0] in _SECTION_ENDS)
        return table

    @property
    def title(self) -> str:
        """What the numbers are of."""
        return f"{self.day} through the platform"

    def rows(self) -> list[tuple[str, ...]]:
        """The name of each number, and the number of each market."""
        return [(name, *(cell(result) for result in self.markets)) for name, cell in _ROWS.items()]


def _count(key: str) -> Any:
    return lambda result: f"{result.check[key]:,}"


def _missing(result: MarketResult) -> str:
    check = result.check
    return f"{check['bars_missing_streamed']:,} / {check['bars_missing_fetched']:,}"


def _latency(key: str) -> Any:
    return lambda result: f"{result.hour[key]:.2f} s" if key in result.hour else "none live"


def _milliseconds(key: str) -> Any:
    return lambda result: f"{result.hour[key]:.0f} ms" if key in result.hour else "none live"


def _seconds(step: str) -> Any:
    return lambda result: f"{result.seconds[step]:.1f} s"


_ROWS = {
    "bars expected (symbols x 1,440)": _count("bars_expected"),
    "bars streamed into PostgreSQL": _count("bars_streamed"),
    "  of the live hour: by WebSocket": lambda result: f"{result.hour['bars_by_websocket']:,}",
    "  of the live hour: by REST": lambda result: f"{result.hour['bars_by_rest']:,}",
    "bars fetched by REST into the lake": _count("bars_fetched"),
    "bars matching": _count("bars_equal"),
    "bars differing": _count("bars_differing"),
    "bars missing, streamed / fetched": _missing,
    "match": lambda result: f"{result.check['match_pct']:g} %",
    "latency p50, bar's end to commit, exchange clock": _latency("latency_p50_s"),
    "latency p99, bar's end to commit, exchange clock": _latency("latency_p99_s"),
    "latency p99, event to commit, our time": _milliseconds("event_to_commit_p99_ms"),
    "run: one hour live": _seconds("stream"),
    "run: 23 hours backfilled": _seconds("backfill"),
    "run: day downloaded and compared": _seconds("day"),
}
_SECTION_ENDS = ("bars fetched by REST into the lake", "match", "latency p99, event to commit, our time")
