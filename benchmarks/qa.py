"""`make bench-qa`: what it takes to compare a day of 500 symbols, 720,000 bars a side, on this machine; one Markdown table.

Lives here: generated bars in memory, each step of the QA timed by itself and all of them together, and beside them the way in
which the platform's predecessor did it: row by row. Does not: reading or writing a store over a network. Exit code 1 when a
step finds what is not there, or misses what is; no time is a failure.

Each number is the median of three; the row by row comparison is run once, for it takes long enough.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import typer

from benchmarks.common import machine
from ohlcv_assets.bars import CAPTURED_SCHEMA, KEY, VALUES
from ohlcv_assets.instruments import Market, Symbol
from ohlcv_assets.quality.expectations import validate, validate_sides
from ohlcv_assets.quality.heat_map import heat_map
from ohlcv_assets.quality.match import match
from ohlcv_assets.quality.publish import store_result
from ohlcv_assets.quality.report.pages import match_page
from ohlcv_assets.quality.soundness import soundness
from ohlcv_assets.quality.verdict import Verdict, compare
from ohlcv_assets.storage.lake import Lake
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, Interval, day_start_ms

_FIRST_DAY = date(2025, 6, 1)
_DAY = Interval.of_day(_FIRST_DAY)
_MINUTES = DAY_MS // MINUTE_MS
_TIMES = 3
#: Bars whose closing price is one step off on the fetched side.
_DIFFERING = 44
#: The columns that the predecessor compared.
_COMPARED = ("open", "high", "low", "close", "volume")


@dataclass(frozen=True)
class Row:
    """One line of the table: what was done, how long it took, and what it found."""

    name: str
    taken_s: float
    found: str


def day_of_bars(symbols: int, seed: int = 7, day: date = _FIRST_DAY) -> pl.DataFrame:
    """A day of valid bars on a tick of 0.01 and a step of 0.001: `CAPTURED_SCHEMA`, sorted by (symbol, timestamp)."""
    start_ms = day_start_ms(day)
    random = np.random.default_rng(seed)
    count = symbols * _MINUTES
    names = np.array([f"T{number:04}/USDT:USDT" for number in range(symbols)])
    open_ = np.round(100 + np.cumsum(random.normal(0, 0.05, count)) % 50, 2)
    close = np.round(open_ + random.normal(0, 0.05, count), 2)
    volume = np.round(0.001 + random.exponential(5, count), 3)
    taker = np.round(volume * random.random(count), 3)
    return (
        pl.DataFrame(
            {
                "market": np.repeat("futures", count),
                "symbol": np.repeat(names, _MINUTES),
                "timestamp": np.tile(start_ms + MINUTE_MS * np.arange(_MINUTES), symbols),
                "open": open_,
                "high": np.round(np.maximum(open_, close) + 0.01, 2),
                "low": np.round(np.minimum(open_, close) - 0.01, 2),
                "close": close,
                "volume": volume,
                "quote_volume": np.round(volume * close, 5),
                "trade_count": 1 + random.poisson(30, count),
                "taker_buy_volume": taker,
                "taker_buy_quote_volume": np.round(taker * close, 5),
                "end_download_timestamp": np.repeat(np.datetime64("2025-06-02T04:00:00", "us"), count),
            },
            schema_overrides={"end_download_timestamp": pl.Datetime("us")},
        )
        .with_columns(pl.col("end_download_timestamp").dt.replace_time_zone("UTC"))
        .select(pl.col(name).cast(dtype) for name, dtype in CAPTURED_SCHEMA.items())
    )


def changed(bars: pl.DataFrame, count: int) -> pl.DataFrame:
    """The same bars, of which `count`, spread over the day, close within their range at another price."""
    here = pl.int_range(pl.len()) % (bars.height // count) == 0
    # Halfway between low and high: sound, and another number.
    other = pl.col("low") + (pl.col("high") - pl.col("low")) * 0.490123
    return bars.with_columns(
        close=pl.when(here & (pl.int_range(pl.len()) < count * (bars.height // count)))
        .then(other)
        .otherwise(pl.col("close"))
    )


def row_by_row(left: pl.DataFrame, right: pl.DataFrame) -> int:
    """How many bars differ, as the predecessor found out: an outer merge, then a function of Python for every row."""
    columns = ["symbol", "timestamp", *_COMPARED]
    sides = [side.select(columns).to_pandas() for side in (left, right)]
    merged = sides[0].merge(sides[1], how="outer", on=["symbol", "timestamp"], suffixes=("_left", "_right"))

    def differs(row: Any) -> bool:
        return any(row[f"{name}_left"] != row[f"{name}_right"] for name in _COMPARED)

    return int(merged.apply(differs, axis=1).sum())


class Bench:
    """The steps of one day's QA, each timed."""

    def __init__(self, symbols: int) -> None:
        self.streamed = day_of_bars(symbols).with_columns(
            channel=pl.lit("websocket"),
            knowledge_timestamp=pl.lit(datetime(2025, 6, 2, tzinfo=UTC), pl.Datetime("us", "UTC")),
        )
        fetched = self.streamed.drop("channel", "knowledge_timestamp")
        # Both stores give bars in the order of their key; the comparison is also right, and slower, in any other.
        self.same = fetched
        self.other = changed(fetched, _DIFFERING)
        self.shuffled = self.other.sample(fraction=1.0, shuffle=True, seed=2)
        self.symbols = [Symbol(name) for name in self.streamed["symbol"].unique().sort()]
        self.bars = f"{self.streamed.height:,}"
        self.rows: list[Row] = []

    def run(self, *, with_predecessor: bool) -> list[Row]:
        """Time every step."""
        self._matches()
        self._soundness()
        verdict = self._compare(self.other)
        self._time(
            "heat map and report of the day", lambda: self._report(verdict), lambda it: f"{len(it) // 1000:,} kB"
        )
        self._ledger()
        whole = "the day's QA beyond loading"
        self._time(f"{whole}, equal", lambda: self._all(self.same), lambda it: f"{it.match.match_pct:g} %")
        self._time(
            f"{whole}, {_DIFFERING} differ", lambda: self._all(self.other), lambda it: self._differing(it.match)
        )
        if with_predecessor:
            name = f"row by row, {self.bars} x {self.bars}, {_DIFFERING} differ"
            compared = (self.streamed, self.other)
            self._time(name, lambda: row_by_row(*compared), lambda it: f"{it} differ", times=1)
        return self.rows

    def _matches(self) -> None:
        both = f"match {self.bars} x {self.bars}"
        self._time(f"{both}, equal", lambda: match(self.streamed, self.same), lambda it: f"{it.match_pct:g} %")
        self._time(f"{both}, {_DIFFERING} differ", lambda: match(self.streamed, self.other), self._differing)
        self._time("the same, one side shuffled", lambda: match(self.streamed, self.shuffled), self._differing)

    def _soundness(self) -> None:
        bars, name = self.streamed, f"soundness of {self.bars}"
        self._time(f"{name}, polars", lambda: soundness(bars), lambda it: f"{it.violations.height} broken")
        self._import_great_expectations()
        self._time(f"{name}, Great Expectations", lambda: validate(bars), lambda it: f"{len(it.broken)} broken")

    def _time(self, name: str, step: Callable[[], Any], found: Callable[[Any], str], *, times: int = _TIMES) -> None:
        taken_s = []
        for _ in range(times):
            began_s = time.perf_counter()
            result = step()
            taken_s.append(time.perf_counter() - began_s)
        self.rows.append(Row(name, statistics.median(taken_s), found(result)))

    def _import_great_expectations(self) -> None:
        began_s = time.perf_counter()
        validate(self.streamed.head(1))
        self.rows.append(Row("import of Great Expectations, once a process", time.perf_counter() - began_s, ""))

    def _compare(self, fetched: pl.DataFrame) -> Verdict:
        database: Any = SimpleNamespace(read=lambda *_, **__: self.streamed)
        return compare(database, fetched, self.symbols, Market.FUTURES, _DAY)

    def _all(self, fetched: pl.DataFrame) -> Verdict:
        """What a run of daily_qa does with bars that are loaded: compare, validate, make the pages, store them."""
        verdict = self._compare(fetched)
        with tempfile.TemporaryDirectory() as folder:
            store_result(
                Lake(folder), verdict, validate_sides(verdict), "qa/daily_qa/futures/v0_1/date=2025-06-01", "bench"
            )
        return verdict

    def _ledger(self) -> None:
        from ohlcv_assets.quality.causes import Evidence
        from ohlcv_assets.quality.ledger import ledger

        keys = [*KEY, *VALUES]
        self._time(
            "ledger of the day",
            lambda: ledger(
                self.streamed.select(keys), self.other.select(keys), self.symbols, Market.FUTURES, _DAY, Evidence()
            ),
            lambda it: f"{it.expected:,} minutes",
        )

    @staticmethod
    def _differing(report: Any) -> str:
        return f"{report.differing} differ"

    @staticmethod
    def _report(verdict: Verdict) -> str:
        return match_page(verdict, heat_map(verdict), datetime.now(UTC))


def main(symbols: int = 500, predecessor: bool = True) -> None:
    """Measure, and print the table."""
    bench = Bench(symbols)
    rows = bench.run(with_predecessor=predecessor)
    typer.echo("| step | seconds | bars a second | found |\n|---|---:|---:|---|")
    for row in rows:
        rate = f"{bench.streamed.height / row.taken_s:,.0f}" if row.found else ""
        typer.echo(f"| {row.name} | {row.taken_s:.2f} | {rate} | {row.found} |")
    typer.echo("")
    typer.echo("\n".join(machine()))
    right = {"100 %", "0 broken", f"{_DIFFERING} differ"}
    wrong = [row for row in rows if row.found.endswith(("%", "broken", "differ")) and row.found not in right]
    if wrong:
        sys.exit(f"not what was planted: {wrong}")


if __name__ == "__main__":
    typer.run(main)
