"""Reads by the client from a real lake on disk, beside pandas reading the same bars in the predecessor's layout.

Lives here: lakes of generated bars, the questions put to them, and the table. Does not: any reading of ours
(ohlcv_assets/client). Every answer is compared with the bars that were written, or with what polars makes of them.

The predecessor's layout is `currency_pair=X/year=Y/month=M/data.parquet` with `timestamp, open, high, low, close, volume,
exchange_id, knowledge_timestamp`, read by pyarrow with hive partitions, filtered by pair, month and time, into pandas. What it does
afterwards (index, shift, drop duplicates) is left out, in its favour. Ours proves every value that it hands out by its check
sum; pandas believes the file.

Times are medians, after one read that is not counted: the files are in the system's memory.
"""

from __future__ import annotations

import functools
import itertools
import operator
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.common import markdown_table, median_s, require
from benchmarks.qa import day_of_bars
from ohlcv_assets.bars import VALUES
from ohlcv_assets.client import OhlcvClient
from ohlcv_assets.client.question import days_of
from ohlcv_assets.instruments import Market, Universe, release_universe
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, Interval, from_ms

TITLE = "Client reads"
_MARKET = Market.FUTURES
_FIRST_DAY = date(2024, 6, 1)
#: What the predecessor's files hold of a bar's values.
_FIVE = ("open", "high", "low", "close", "volume")
_AIM = 5_000_000
#: By its name in the table: a question, and the bars that answer it, or how many.
_Questions = dict[str, tuple[Callable[[], pl.DataFrame], pl.DataFrame | int]]


@dataclass(frozen=True)
class Scale:
    """How much is read: a long lake of few symbols, and a day of many."""

    symbols: int = 24
    days: int = 365
    month_days: int = 30
    day_symbols: int = 400
    times: int = 5


@dataclass(frozen=True)
class Shelf:
    """A lake of generated bars, the same bars in the predecessor's layout, and some of them in memory.

    Attributes:
        home: the folder of all of it.
        symbols: of each day.
        days: from `_FIRST_DAY` on.
        kept: the bars that are compared with what is read: those of the first symbol, and all of the first days.
    """

    home: Path
    symbols: int
    days: int
    kept: list[pl.DataFrame] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        """Of a client that reads it."""
        return Settings(
            home=self.home, database_url=None, lake=None, universes=self.home / "universes", universe="v0.1"
        )

    @property
    def predecessors(self) -> Path:
        """The folder of the predecessor's layout."""
        return self.home / "predecessor"

    def fill(self, kept_days: int) -> None:
        """Write every day into the lake, its ledger beside it, and every month into the predecessor's folders."""
        names = [f"T{number:04}/USDT:USDT" for number in range(self.symbols)]
        universe = Universe.of("v0.1", {_MARKET: names})
        release_universe(universe, self.settings.universes)
        lake, month = Lake(self.settings.lake_url), list[pl.DataFrame]()
        for number in range(self.days):
            day = _FIRST_DAY + timedelta(days=number)
            bars = day_of_bars(self.symbols, seed=number, day=day)
            lake.write_day(Signature.daily(_MARKET, universe), day, bars)
            self.kept.append(bars if number < kept_days else bars.filter(pl.col("symbol") == names[0]))
            _keep_ledger(lake, universe, day, bars)
            month.append(bars)
            if (day + timedelta(days=1)).month != day.month or number == self.days - 1:
                write_predecessors(pl.concat(month), self.predecessors, day)
                month.clear()


def _keep_ledger(lake: Lake, universe: Universe, day: date, bars: pl.DataFrame) -> None:
    """The ledger of a day on which both captures agree, made and stored as the platform does."""
    from ohlcv_assets.quality.causes import Evidence
    from ohlcv_assets.quality.ledger import ledger
    from ohlcv_assets.quality.ledger_day import put_ledger

    found = ledger(bars, bars, universe.symbols[_MARKET], _MARKET, Interval.of_day(day), Evidence())
    put_ledger(lake, universe, found)


def write_predecessors(bars: pl.DataFrame, folder: Path, day: date) -> None:
    """A month of bars in the predecessor's layout, as pandas writes Parquet."""
    for (symbol,), own in bars.partition_by("symbol", as_dict=True).items():
        pair = str(symbol).partition(":")[0].replace("/", "_")
        place = folder / f"currency_pair={pair}" / f"year={day.year}" / f"month={day.month}"
        place.mkdir(parents=True, exist_ok=True)
        columns = own.select("timestamp", *_FIVE, exchange_id=pl.lit("binance"), knowledge_timestamp=pl.col("end_download_timestamp"))  # fmt: skip
        columns.to_pandas().to_parquet(place / "data.parquet", index=False)


def read_predecessors(folder: Path, pairs: Sequence[str] | None, interval: Interval) -> Any:
    """The bars of an interval as a pandas frame: pyarrow, hive partitions, filtered by pair, year, month and time."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    parts = pa.schema([("currency_pair", pa.string()), ("year", pa.int32()), ("month", pa.int32())])
    dataset = ds.dataset(folder, format="parquet", partitioning=ds.partitioning(parts, flavor="hive"))
    # Month by month, as it writes its filters: only so are the other folders not opened.
    months = sorted({(day.year, day.month) for day in days_of(interval)})
    asked = functools.reduce(operator.or_, ((ds.field("year") == y) & (ds.field("month") == m) for y, m in months))
    asked &= (ds.field("timestamp") >= interval.start_ms) & (ds.field("timestamp") < interval.end_ms)
    if pairs is not None:
        asked &= ds.field("currency_pair").isin(pairs)
    return dataset.to_table(filter=asked).to_pandas()


@dataclass(frozen=True)
class Case:
    """A question, put to both."""

    name: str
    shelf: Shelf
    symbols: list[str] | None
    days: int

    @property
    def interval(self) -> Interval:
        """What is asked for."""
        start_ms = Interval.of_day(_FIRST_DAY).start_ms
        return Interval(start_ms, start_ms + self.days * DAY_MS)

    @property
    def arguments(self) -> dict[str, Any]:
        """For `read` and `scan`."""
        start, end = from_ms(self.interval.start_ms), from_ms(self.interval.end_ms)
        return {"symbols": self.symbols, "start": start, "end": end, "market": _MARKET}

    def expected(self) -> pl.DataFrame:
        """The bars that were written, in the answer's order."""
        bars = pl.concat(self.shelf.kept[: self.days])
        if self.symbols is not None:
            bars = bars.filter(pl.col("symbol").is_in(self.symbols))
        end = (pl.col("timestamp") + MINUTE_MS).cast(pl.Datetime("ms", "UTC"))
        return bars.sort("symbol", "timestamp").select(interval_end=end, symbol="symbol", **{name: name for name in VALUES})  # fmt: skip

    def pairs(self) -> list[str] | None:
        """The symbols, as the predecessor names them."""
        if self.symbols is None:
            return None
        return [symbol.partition(":")[0].replace("/", "_") for symbol in self.symbols]


def run(scale: Scale | None = None) -> Iterator[str]:
    """The section: lines of Markdown, as they are ready."""
    scale = scale or Scale()
    with tempfile.TemporaryDirectory(prefix="ohlcv-bench-") as folder:
        long = Shelf(Path(folder) / "long", scale.symbols, scale.days)
        wide = Shelf(Path(folder) / "wide", scale.day_symbols, 1)
        long.fill(scale.month_days)
        wide.fill(1)
        month = Case(f"{scale.symbols} symbols x {scale.month_days} days", long, None, scale.month_days)
        year = Case(f"one symbol, {scale.days} days", long, ["T0000/USDT:USDT"], scale.days)
        cases = (
            year,
            Case(f"one day, {scale.day_symbols} symbols", wide, None, 1),
            month,
        )
        yield from markdown_table(
            (
                "read",
                "rows",
                "client, s",
                "rows/s",
                "the five columns, rows/s",
                "pandas, s",
                "rows/s",
                "client x pandas",
            ),
            (beside_pandas(case, scale.times) for case in cases),
        )
        yield ""
        yield f"*Client* is nine value columns, each value proved by its check sum; aim {_AIM:,} rows/s. *The five columns* are those"
        yield "that pandas has too; the factor is of these. pandas reads the predecessor's layout and proves nothing."
        yield ""
        more = itertools.chain(_more(month, scale.times), _long(year, scale.times))
        yield from markdown_table(("more of the client", "bars read", "rows given", "s", "bars read/s"), more)


def beside_pandas(case: Case, times: int) -> tuple[object, ...]:
    """A row of the table: the client with all values, with five of them, and pandas.

    Raises:
        WrongResult: one of them gave other bars than were written.
    """
    expected, five = case.expected(), ["interval_end", "symbol", *_FIVE]
    with OhlcvClient(case.shelf.settings) as client:
        ours_s, bars = median_s(lambda: client.read(**case.arguments), times)
        require(bars.equals(expected), f"{case.name}, client")
        five_s, bars = median_s(lambda: client.read(**case.arguments, columns=_FIVE), times)
        require(bars.equals(expected.select(five)), f"{case.name}, five columns")
    ask = lambda: read_predecessors(case.shelf.predecessors, case.pairs(), case.interval)  # noqa: E731
    pandas_s, frame = median_s(ask, times)
    found = pl.from_pandas(frame).sort("currency_pair", "timestamp").select(_FIVE)
    require(found.equals(expected.select(_FIVE)), f"{case.name}, pandas")
    rows = expected.height
    rates = [f"{rows / taken_s:,.0f}" for taken_s in (ours_s, five_s, pandas_s)]
    return (
        case.name,
        rows,
        f"{ours_s:.3f}",
        rates[0],
        rates[1],
        f"{pandas_s:.3f}",
        rates[2],
        f"{pandas_s / five_s:.1f}",
    )


def _more(case: Case, times: int) -> Iterator[tuple[object, ...]]:
    expected = case.expected()
    busy = pl.col("volume") > 25
    with OhlcvClient(case.shelf.settings) as client:
        scan = client.scan(**case.arguments, columns=["close", "volume"]).filter(busy)
        questions: _Questions = {
            "`read`": (lambda: client.read(**case.arguments), expected),
            '`verified=True`: and every minute by its ledger': (lambda: client.read(**case.arguments, verified=True), expected),
            '`resample="5m"`': (lambda: client.read(**case.arguments, resample="5m"), expected.height // 5),
            '`fill="forward"`': (lambda: client.read(**case.arguments, fill="forward"), expected.height),
            '`source="stitched"`, no database': (lambda: client.read(**case.arguments, source="stitched"), expected),
            "`scan` of two columns, one volume in a hundred (nothing is proved)": (scan.collect, expected.filter(busy).height),
        }  # fmt: skip
        yield from _asked(case, questions, times)


def _long(case: Case, times: int) -> Iterator[tuple[object, ...]]:
    expected = case.expected()
    with OhlcvClient(case.shelf.settings) as client:
        questions: _Questions = {
            "`verified=True`": (lambda: client.read(**case.arguments, verified=True), expected),
            "`scan` of all values (nothing is proved)": (
                client.scan(**case.arguments).collect,
                expected,
            ),
        }
        yield from _asked(case, questions, times)


def _asked(case: Case, questions: _Questions, times: int) -> Iterator[tuple[object, ...]]:
    read = case.expected().height
    for name, (ask, right) in questions.items():
        taken_s, bars = median_s(ask, times)
        require(bars.equals(right) if isinstance(right, pl.DataFrame) else bars.height == right, name)
        yield f"{name}, {case.name}", read, bars.height, f"{taken_s:.3f}", f"{read / taken_s:,.0f}"
