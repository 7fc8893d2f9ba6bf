"""The ledger, as a reader uses it: in which state each minute is, and which of them two captures do not agree about.

Lives here: reading the ledger of many days, its states beside the bars, and the list of what is not verified. Does not: how a
state comes about (quality/ledger.py). The lake holds the newest ledger of every day; the database holds every version of it.

A minute is verified when its state is confirmed, repaired or halted. One that was not listed was never expected. All others are
not verified, and so is one of which no ledger speaks: also when the day's file was replaced after the ledger was made, when the ledger
is of another universe, and when the bar became known, as a revision perhaps, after what the ledger has compared.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ohlcv_assets.client import minutes
from ohlcv_assets.client.question import Question
from ohlcv_assets.errors import CorruptFile, DayMissing, NotVerified, ObjectMissing, UsageError
from ohlcv_assets.instruments import Market, Universe
from ohlcv_assets.storage.bars_file import BROKEN_PARQUET
from ohlcv_assets.storage.lake import Lake
from ohlcv_assets.storage.signature import SPEAKS_OF, STREAMED_UNTIL, Signature, ledger_folder, ledger_key
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, Interval, day_start_ms, from_ms, iso

if TYPE_CHECKING:
    from ohlcv_assets.storage.quality_store import QualityStore

#: quality/ledger.py decides; its names are here so that a reader of the lake alone needs no database driver. A test compares.
VERIFIED: tuple[str, ...] = ("confirmed", "repaired", "halted")
NOT_LISTED = "not_listed"
STATES: tuple[str, ...] = (*VERIFIED, NOT_LISTED, "streamed_only", "fetched_only", "differing", "missing")
#: What stands for the state of a minute of which no ledger speaks.
NO_LEDGER = "no_ledger"
RANGES: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "start": pl.Int64(),
    "end": pl.Int64(),
    "state": pl.String(),
    "cause": pl.String(),
    "proof": pl.String(),
}
#: The same with the newest knowledge_timestamp that was compared of either side; null where the content hash says it.
UNTIL = ("streamed_until", "fetched_until")
SAID: dict[str, pl.DataType] = {**RANGES, **dict.fromkeys(UNTIL, pl.Datetime("us", "UTC"))}
#: What stands for the state of a bar that became known after the ledger's comparison.
CHANGED = "changed_since"
_THREADS = 8
#: The ledgers of more days than this are looked up in a list of the lake.
_MANY_DAYS = 100
_NAMED = 5


@dataclass(frozen=True)
class _Ledger:
    """What the ledger of a day says (`RANGES`), and the newest knowledge_timestamp that it has compared of either side."""

    ranges: pl.DataFrame
    streamed_until: datetime | None
    fetched_until: datetime | None


@dataclass(frozen=True)
class LedgerReader:
    """The ledgers of a market and universe.

    Attributes:
        lake: holds the newest ledger of each day.
        market: of all of it.
        universe: whose symbols were expected.
        quality: opens the store of every version; None where there is no database.
    """

    lake: Lake
    market: Market
    universe: Universe
    quality: Callable[[], QualityStore] | None

    def ranges(self, question: Question) -> pl.DataFrame:
        """What the ledger says of these symbols and minutes: `SAID`, sorted by symbol and start, clipped to the interval.

        Raises:
            UsageError: an earlier state of the ledger, where there is no database.
            CorruptFile: a ledger in the lake cannot be read.
        """
        if question.as_of is not None:
            said = _joined(self._from_database(question.days, question.as_of))
        else:
            said = _joined(self._newest(question.days))
        return clipped(said.filter(pl.col("symbol").is_in(list(question.symbols))), question.interval)

    def unverified(self, question: Question, ranges: pl.DataFrame) -> pl.DataFrame:
        """The expected minutes that are not verified: `RANGES`, sorted by symbol and start; `no_ledger` where none speaks."""
        silent = _silent(question, ranges, self.universe)
        doubtful = ranges.filter(~pl.col("state").is_in([*VERIFIED, NOT_LISTED])).select(list(RANGES))
        return pl.concat([doubtful, silent]).sort("symbol", "start")

    def _newest(self, days: Sequence[date]) -> list[_Ledger]:
        """By day what the lake says, and of days of which it says nothing what the database says."""
        there = self._in_lake(days)
        with ThreadPoolExecutor(_THREADS) as threads:
            found = dict(zip(there, threads.map(self._of_day, there), strict=True))
        silent = [day for day in days if found.get(day) is None]
        said = [part for part in found.values() if part is not None]
        return said if self.quality is None or not silent else [*said, *self._from_database(silent, None)]

    def _in_lake(self, days: Sequence[date]) -> Sequence[date]:
        """The days of which the lake may have a ledger: of many days a list says it, sooner than a look for each."""
        if len(days) <= _MANY_DAYS:
            return days
        listed = set(self.lake.keys(ledger_folder(self.market, self.universe)))
        return [day for day in days if ledger_key(self.market, self.universe, day) in listed]

    def _of_day(self, day: date) -> _Ledger | None:
        key = ledger_key(self.market, self.universe, day)
        try:
            content = self.lake.get(key)
        except ObjectMissing:
            return None
        try:
            noted = pl.read_parquet_metadata(io.BytesIO(content))
            ranges = _typed(pl.read_parquet(io.BytesIO(content), hive_partitioning=False))
            streamed = datetime.fromisoformat(noted[STREAMED_UNTIL]) if noted.get(STREAMED_UNTIL) else None
        except BROKEN_PARQUET as error:
            raise CorruptFile(
                f"{self.lake.location(key)} is damaged: {str(error).splitlines()[0]}",
                hint="materialize the ledger of this day again",
            ) from error
        is_present = self._is_of_present_content(day, noted.get(SPEAKS_OF))
        return _Ledger(ranges if is_present else ranges.clear(), streamed, None)

    def _is_of_present_content(self, day: date, spoken_of: str | None) -> bool:
        """Whether the day still is what the ledger speaks of: of a day that was replaced since it says nothing."""
        if not spoken_of:
            return True
        try:
            return self.lake.content_hash_of(Signature.daily(self.market, self.universe), day) == spoken_of
        except DayMissing:
            return True

    def _from_database(self, days: Sequence[date], as_of: datetime | None) -> list[_Ledger]:
        """The same of the database, cut at midnight: it joins what goes on."""
        if self.quality is None:
            raise UsageError(
                "the lake keeps the newest ledger alone, not what it said before",
                hint="read without as_of, or set OHLCV_DATABASE_URL: the database keeps every version",
            )
        whole = Interval(day_start_ms(days[0]), day_start_ms(days[-1]) + DAY_MS)
        store = self.quality()
        said = store.ledger(self.market, whole, as_of=as_of)
        versions = store.ledger_versions(self.market, whole, as_of=as_of)
        known = {
            day: known_at for day, universe, known_at in versions.iter_rows() if universe == self.universe.version
        }
        # A version of another universe compared other bars: of these it says nothing.
        told = said.select(pl.col(name).cast(dtype) for name, dtype in RANGES.items())
        return [_Ledger(clipped(told, Interval.of_day(day)), known[day], known[day]) for day in days if day in known]


def with_states(bars: pl.DataFrame, ranges: pl.DataFrame, said: Sequence[str] = ("state",)) -> pl.DataFrame:
    """The bars with what the ledger says of each, by default its `state` (String): null where it says nothing.

    Args:
        bars: `symbol, timestamp` and others, sorted by both.
        ranges: `RANGES`.
        said: which columns of the ranges.
    """
    told = ranges.select("symbol", "start", "end", *said).sort("symbol", "start")
    rows = _rows_of(bars, told)
    return bars.with_columns(told[name].gather(rows).alias(name) for name in said)


def _rows_of(bars: pl.DataFrame, told: pl.DataFrame) -> pl.Series:
    """For each bar the row of the range that it lies in, or null: few ranges are looked through, and no bar is moved."""
    at, starts, ends = bars["timestamp"].to_numpy(), told["start"].to_numpy(), told["end"].to_numpy()
    rows, ranges_of = np.full(bars.height, -1), dict(_slices(told["symbol"]))
    for symbol, own in _slices(bars["symbol"]):
        if (ranges := ranges_of.get(symbol)) is None:
            continue
        last = np.searchsorted(starts[ranges], at[own], side="right") - 1
        inside = (last >= 0) & (at[own] < ends[ranges][last])
        rows[own] = np.where(inside, last + ranges.start, -1)
    found = pl.Series(rows)
    return found.set(found < 0, None)


def _slices(symbols: pl.Series) -> list[tuple[str, slice]]:
    """Consecutive rows of one symbol each."""
    runs = symbols.rle().struct.unnest()
    lasts = runs["len"].cast(pl.Int64).cum_sum()
    return [
        (symbol, slice(last - length, last))
        for symbol, length, last in zip(runs["value"], runs["len"], lasts, strict=True)
    ]


def as_compared(bars: pl.DataFrame) -> pl.DataFrame:
    """The bars with `CHANGED` in the place of the `state` of those that became known after what the ledger has compared.

    Args:
        bars: with `source`, `state`, `knowledge_timestamp` and `UNTIL`.

    Returns:
        The same without `UNTIL`.
    """
    until = pl.when(pl.col("source") == "daily").then(pl.col("fetched_until")).otherwise(pl.col("streamed_until"))
    is_later = pl.col("state").is_not_null() & (pl.col("knowledge_timestamp") > until).fill_null(value=False)
    return bars.with_columns(pl.when(is_later).then(pl.lit(CHANGED)).otherwise(pl.col("state")).alias("state")).drop(
        UNTIL
    )


def changed(bars: pl.DataFrame, doubtful: pl.DataFrame) -> pl.DataFrame:
    """The bars that became known after the comparison, as `RANGES`; those that are in doubt anyway are not named again.

    Args:
        bars: what `as_compared` gave, sorted by symbol and time.
        doubtful: the minutes that are not verified by what the ledger says (`RANGES`).
    """
    later = bars.filter(pl.col("state") == CHANGED).select("symbol", "timestamp")
    named = with_states(later, doubtful).filter(pl.col("state").is_null()).select("symbol", "timestamp")
    nothing = [pl.lit(None, pl.String).alias(name) for name in ("cause", "proof")]
    return minutes.runs(named).select("symbol", "start", "end", pl.lit(CHANGED).alias("state"), *nothing)


def refuse_unverified(question: Question, unverified: pl.DataFrame, universe: Universe) -> None:
    """Raise when there is something that is not verified, naming the minutes.

    Raises:
        NotVerified: with the first ranges, how many minutes in all, and of how many that were listed.
    """
    if unverified.is_empty():
        return
    listed = minutes.expected_runs(question, universe, None)
    count, expected = (int((of["end"] - of["start"]).sum()) // MINUTE_MS for of in (unverified, listed))
    named = "; ".join(_named(row) for row in unverified.head(_NAMED).iter_rows(named=True))
    more = f"; and {unverified.height - _NAMED} more ranges" if unverified.height > _NAMED else ""
    raise NotVerified(
        f"{count} of {expected} minutes of {question} are not verified: {named}{more}",
        hint=_what_to_do(question, unverified),
    )


def _what_to_do(question: Question, unverified: pl.DataFrame) -> str:
    rest = 'see unverified() for all of them; on_unverified="drop" (--on-unverified drop) reads the rest'
    unheard = unverified.filter(pl.col("state").is_in([CHANGED, NO_LEDGER]))
    if unheard.is_empty():
        return rest
    day = from_ms(unheard["start"].min()).date()  # type: ignore[arg-type]  # a column of whole numbers
    return f"make the day's ledger: ohlcv ledger --market {question.market} --day {day} --record; {rest}"


def _named(row: dict[str, Any]) -> str:
    cause = f" ({row['cause']})" if row["cause"] else ""
    return f"{row['symbol']} [{iso(row['start'])}, {iso(row['end'])}) {row['state']}{cause}"


def _typed(ranges: pl.DataFrame) -> pl.DataFrame:
    """`RANGES`; most are of that form, and 365 casts take longer than the reading."""
    if ranges.schema == RANGES:
        return ranges
    return ranges.select(pl.col(name).cast(dtype) for name, dtype in RANGES.items())


def _joined(ledgers: Sequence[_Ledger]) -> pl.DataFrame:
    """The ranges of all ledgers, each with what its ledger has compared: `SAID`."""
    frame = pl.concat([pl.DataFrame(schema=RANGES), *(ledger.ranges for ledger in ledgers)])
    ledger_of_row = np.repeat(np.arange(len(ledgers)), [ledger.ranges.height for ledger in ledgers])
    compared = [(ledger.streamed_until, ledger.fetched_until) for ledger in ledgers]
    until = pl.DataFrame(compared, schema={name: SAID[name] for name in UNTIL}, orient="row")
    return pl.concat([frame, until[ledger_of_row]], how="horizontal")


def clipped(ranges: pl.DataFrame, interval: Interval) -> pl.DataFrame:
    """The ranges that touch the interval, in whole minutes of it, sorted."""
    whole = interval.minutes
    touching = ranges.filter((pl.col("start") < interval.end_ms) & (pl.col("end") > whole.start))
    last_ms = whole.start + len(whole) * MINUTE_MS
    return touching.with_columns(
        pl.col("start").clip(lower_bound=whole.start), pl.col("end").clip(upper_bound=last_ms)
    ).sort("symbol", "start")


def _silent(question: Question, ranges: pl.DataFrame, universe: Universe) -> pl.DataFrame:
    """The minutes of listed symbols of which no ledger speaks, in ranges of at most a day."""
    days, told = minutes.by_day(minutes.expected_runs(question, universe, None)), minutes.by_day(ranges)
    length = (pl.col("end") - pl.col("start")).sum().alias("said")
    short = days.join(told.group_by("symbol", "day").agg(length), on=["symbol", "day"], how="left")
    short = short.filter(pl.col("said").fill_null(0) < pl.col("end") - pl.col("start"))
    # Once for all: looking through every range for each of a year's days of 400 symbols takes minutes.
    heard: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for symbol, day, start, end in told.join(short, on=["symbol", "day"], how="semi").sort("start").iter_rows():
        heard.setdefault((symbol, day), []).append((start, end))
    gaps = [
        (symbol, start, end, NO_LEDGER, None, None)
        for symbol, day, first, last in short.select("symbol", "day", "start", "end").iter_rows()
        for start, end in _gaps(heard.get((symbol, day), []), first, last)
    ]
    return pl.DataFrame(gaps, schema=RANGES, orient="row")


def _gaps(heard: Sequence[tuple[int, int]], at: int, end: int) -> Iterator[tuple[int, int]]:
    """What the ranges, sorted, leave out of [at, end)."""
    for first, last in heard:
        if last <= at or first >= end:
            continue
        if first > at:
            yield at, first
        at = last
    if at < end:
        yield at, end
