"""Minutes of symbols as runs, `symbol, start, end`: few rows where a row a minute would be millions.

Lives here: which minutes are expected, the runs of what is stored, and what is left when runs are taken from runs. Does not: reading
(reader.py), or counting (coverage.py). Times are UNIX milliseconds, half-open, on the grid of minutes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta

import polars as pl

from ohlcv_assets.client.question import Question
from ohlcv_assets.instruments import Symbol, Universe
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, floor_to, from_ms

RUNS: dict[str, pl.DataType] = {"symbol": pl.String(), "start": pl.Int64(), "end": pl.Int64()}
#: So many bars are held at once while their runs are found.
_MOST_BARS = 2_000_000

_ONE_DAY = timedelta(days=1)


def expected_runs(question: Question, universe: Universe, now_ms: int | None) -> pl.DataFrame:
    """The minutes of the interval in which a symbol was listed and that are over: `RUNS`, sorted, none touching another.

    Args:
        question: which symbols and minutes.
        universe: when each symbol was listed.
        now_ms: UNIX milliseconds; of a minute that is not over there can be no bar yet. None: over or not, every minute that begins
            in the interval.
    """
    whole = question.interval.minutes
    start_ms = whole.start
    end_ms = start_ms + len(whole) * MINUTE_MS
    if now_ms is not None:
        end_ms = min(end_ms, floor_to(now_ms, MINUTE_MS))
    rows = [
        (str(symbol), max(first_ms, start_ms), min(last_ms, end_ms))
        for symbol in question.symbols
        for first_ms, last_ms in _listed(universe, symbol, start_ms, end_ms)
        if max(first_ms, start_ms) < min(last_ms, end_ms)
    ]
    return pl.DataFrame(rows, schema=RUNS, orient="row")


def _listed(universe: Universe, symbol: Symbol, start_ms: int, end_ms: int) -> Iterator[tuple[int, int]]:
    """The minutes at some time of which the symbol was listed, as [first, last) in order; open ends are the interval's."""
    times = universe.listings.get(symbol)
    spans = [(None, None)] if times is None else [(span.since_ms, span.until_ms) for span in times.spans]
    held: tuple[int, int] | None = None
    for since_ms, until_ms in spans:
        first_ms = start_ms if since_ms is None else floor_to(since_ms, MINUTE_MS)
        last_ms = end_ms if until_ms is None else -floor_to(-until_ms, MINUTE_MS)
        if held is not None and first_ms <= held[1]:  # one listing ended in the minute in which the next began
            held = (held[0], max(held[1], last_ms))
            continue
        if held is not None:
            yield held
        held = (first_ms, last_ms)
    if held is not None:
        yield held


def days_at_once(days: Sequence[date], symbols: int) -> Iterator[Sequence[date]]:
    """The days, in order, in parts of days on end whose bars can be held at once."""
    count = max(1, _MOST_BARS * MINUTE_MS // (DAY_MS * max(1, symbols)))
    first = 0
    for end in range(1, len(days) + 1):
        if end == len(days) or end - first == count or days[end] - days[end - 1] != _ONE_DAY:
            yield days[first:end]
            first = end


def days_in(of: pl.DataFrame) -> list[date]:
    """The days that ranges lie in, in order."""
    return [from_ms(day * DAY_MS).date() for day in by_day(of)["day"].unique().sort()]


def runs(keys: pl.DataFrame) -> pl.DataFrame:
    """The runs of minutes on end in `symbol, timestamp`, sorted by both; a run ends at midnight at the latest."""
    at = pl.col("timestamp")
    breaks = pl.any_horizontal(
        at.diff().ne_missing(MINUTE_MS), at % DAY_MS == 0, pl.col("symbol").ne_missing(pl.col("symbol").shift())
    )
    firsts = keys.with_row_index("row").filter(breaks)
    lasts = firsts["row"].shift(-1, fill_value=keys.height).cast(pl.Int64) - 1
    return firsts.select("symbol", at.alias("start"), (keys["timestamp"].gather(lasts) + MINUTE_MS).alias("end"))


def without(expected: pl.DataFrame, there: pl.DataFrame) -> pl.DataFrame:
    """The minutes of the first that are not in the second: `RUNS`, sorted.

    Args:
        expected: runs of which none overlaps another.
        there: any runs.
    """
    whole = expected.rename({"start": "first", "end": "last"})
    inside = there.join(whole, on="symbol").filter(
        (pl.col("start") < pl.col("last")) & (pl.col("end") > pl.col("first"))
    )
    # What comes after the last run of what is there ends with the expected run itself.
    ends = whole.with_columns(start=pl.col("last"), end=pl.col("last"))
    names = ["symbol", "first", "start", "end"]
    steps = pl.concat([inside.select(names), ends.select(names)]).sort("symbol", "first", "start", "end")
    covered = pl.col("end").cum_max().shift().over("symbol", "first").fill_null(pl.col("first"))
    gap = pl.max_horizontal(covered, "first")
    return (
        steps.select("symbol", gap.alias("gap"), "start")
        .filter(pl.col("gap") < pl.col("start"))
        .rename({"start": "end", "gap": "start"})
    )


def by_day(of: pl.DataFrame) -> pl.DataFrame:
    """The runs cut at midnight: `symbol`, `day` (counted from 1970-01-01), `start`, `end`."""
    days = pl.int_ranges(pl.col("start") // DAY_MS, (pl.col("end") - 1) // DAY_MS + 1).alias("day")
    start_ms = pl.col("day") * DAY_MS
    cut_ = (
        of.with_columns(days)
        .explode("day")
        .with_columns(
            pl.max_horizontal("start", start_ms).alias("start"),
            pl.min_horizontal("end", start_ms + DAY_MS).alias("end"),
        )
    )
    return cut_.select("symbol", "day", "start", "end")


def cut(of: pl.DataFrame, ranges: pl.DataFrame) -> pl.DataFrame:
    """The runs cut wherever a range of the same symbol begins or ends: `RUNS`, sorted.

    Args:
        of: sorted runs of which none overlaps another.
        ranges: `symbol`, `start`, `end` and others.
    """
    points = pl.concat([ranges.select("symbol", pl.col(name).alias("at")) for name in ("start", "end")]).unique()
    whole = of.select("symbol", pl.col("start").alias("first"), pl.col("end").alias("last"))
    held = points.sort("at").join_asof(
        whole.sort("first"), left_on="at", right_on="first", by="symbol", check_sortedness=False
    )
    inside = held.filter((pl.col("at") > pl.col("first")) & (pl.col("at") < pl.col("last")))
    firsts = whole.with_columns(at=pl.col("first"))
    names = ["symbol", "first", "last", "at"]
    pieces = pl.concat([firsts.select(names), inside.select(names)]).sort("symbol", "at")
    end = pl.col("at").shift(-1).over("symbol", "first").fill_null(pl.col("last"))
    return pieces.select("symbol", pl.col("at").alias("start"), end.alias("end"))
