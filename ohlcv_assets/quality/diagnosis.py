"""The diagnosis: what each bar that is not right looks like, in one word.

Lives here: the kinds of defects, and how each is recognised by comparing both captures and a bar's neighbours. Does not:
finding the bars (match.py, soundness.py), deciding which side is right (repair.py), or why a minute is not there
(causes.py). A diagnosis is a hint for people: nothing is repaired or passed by it.

Of several kinds that fit the first one of `Kind` counts: a bar in the wrong minute also differs in value, and what matters
is the minute.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import polars as pl

from ohlcv_assets.bars import EARLIEST_MS, KEY, LATEST_MS, VALUES
from ohlcv_assets.timestamps import MINUTE_MS

if TYPE_CHECKING:
    from ohlcv_assets.quality.verdict import Verdict


class Kind(StrEnum):
    """What a bar that is not right looks like, the most telling first."""

    NO_KEY = "no_key"
    WRONG_UNIT = "wrong_unit"
    OFF_GRID = "off_grid"
    UNSOUND = "unsound"
    OTHER_MINUTE = "other_minute"
    OTHER_SYMBOL = "other_symbol"
    DUPLICATE = "duplicate"
    MISSING = "missing"
    FLAT = "flat"
    UNFINISHED = "unfinished"
    VALUE = "value"


MEANINGS: dict[Kind, str] = {
    Kind.NO_KEY: "the symbol or the timestamp is null",
    Kind.WRONG_UNIT: "the timestamp is no time in milliseconds between 2010 and 2100: seconds, microseconds or nanoseconds",
    Kind.OFF_GRID: "the timestamp is no whole minute",
    Kind.UNSOUND: "the bar breaks an invariant of a bar",
    Kind.OTHER_MINUTE: "one side has in this minute what the other has in the minute before or after",
    Kind.OTHER_SYMBOL: "one side has for this symbol what the other has for another symbol",
    Kind.DUPLICATE: "the bar stands more than once on a side",
    Kind.MISSING: "a side lacks the bar",
    Kind.FLAT: "one side has a flat bar without volume, the other trades",
    Kind.UNFINISHED: "one side's bar could have become the other's: the same open, and less of everything",
    Kind.VALUE: "a value differs",
}

DIAGNOSIS_SCHEMA: dict[str, pl.DataType] = {
    "market": pl.String(),
    "symbol": pl.String(),
    "timestamp": pl.Int64(),
    "kind": pl.String(),
}

_IDENTITY = ("symbol", "timestamp")
_TRADED = pl.col("trade_count") > 0


def diagnose(verdict: Verdict) -> pl.DataFrame:
    """Every bar that is not right, once, with its kind: `DIAGNOSIS_SCHEMA`, sorted by kind, symbol and time.

    Bars that neither side has are missing; bars that are equal on both sides, but unsound, are unsound.
    """
    bad = _not_right(verdict)
    if bad.is_empty():
        return pl.DataFrame(schema=DIAGNOSIS_SCHEMA)
    streamed, fetched = (_near(side.select(*KEY, *VALUES), bad) for side in (verdict.streamed, verdict.fetched))
    found = [
        (Kind.NO_KEY, bad.filter(pl.any_horizontal(pl.col(_IDENTITY).is_null()))),
        (Kind.WRONG_UNIT, bad.filter(~pl.col("timestamp").is_between(EARLIEST_MS, LATEST_MS))),
        (Kind.OFF_GRID, bad.filter(pl.col("timestamp") % MINUTE_MS != 0)),
        (Kind.UNSOUND, _unsound(verdict)),
        (Kind.OTHER_MINUTE, _elsewhere(bad, streamed, fetched, _in_another_minute)),
        (Kind.OTHER_SYMBOL, _elsewhere(bad, streamed, fetched, _for_another_symbol)),
        (Kind.DUPLICATE, _of_match(verdict, "duplicate_left", "duplicate_right")),
        (Kind.MISSING, pl.concat([_of_match(verdict, "only_left", "only_right"), verdict.both_lack().select(KEY)])),
        (Kind.FLAT, _paired(bad, streamed, fetched, _is_flat)),
        (Kind.UNFINISHED, _paired(bad, streamed, fetched, _is_unfinished)),
        (Kind.VALUE, bad),
    ]
    kinds = [rows.select(KEY).with_columns(kind=pl.lit(str(kind))) for kind, rows in found]
    named = pl.concat(kinds).unique(KEY, keep="first", maintain_order=True)
    order = pl.col("kind").replace_strict(
        {str(kind): number for number, kind in enumerate(Kind)}, return_dtype=pl.Int8
    )
    return named.sort(order, "symbol", "timestamp")


def counted(diagnosis: pl.DataFrame) -> dict[str, int]:
    """How many bars are of each kind; kinds that do not occur are left out."""
    return dict(diagnosis.group_by("kind", maintain_order=True).len().iter_rows())


def explained_kinds(diagnosis: pl.DataFrame) -> pl.DataFrame:
    """One row a kind that occurs, for people: `looks_like, bars, meaning`."""
    rows = [(kind, bars, MEANINGS[Kind(kind)]) for kind, bars in counted(diagnosis).items()]
    return pl.DataFrame(rows, schema={"looks_like": pl.String, "bars": pl.Int64, "meaning": pl.String}, orient="row")


def _not_right(verdict: Verdict) -> pl.DataFrame:
    """The key of every bar that differs, is duplicate or missing on a side or on both, or is unsound."""
    parts = (verdict.match.differences.select(KEY), _unsound(verdict), verdict.both_lack().select(KEY))
    return pl.concat(parts).unique(maintain_order=True)


def _near(side: pl.DataFrame, bad: pl.DataFrame) -> pl.DataFrame:
    """The bars of the minutes that are not right for some symbol, and of those beside them: nothing else is compared."""
    at = bad["timestamp"].drop_nulls()
    minutes = pl.concat([at - MINUTE_MS, at, at + MINUTE_MS]).unique()
    return side.filter(pl.col("timestamp").is_in(minutes.implode()))


def _unsound(verdict: Verdict) -> pl.DataFrame:
    both = (verdict.streamed_soundness.violations, verdict.fetched_soundness.violations)
    return pl.concat([found.select(KEY) for found in both]).unique(maintain_order=True)


def _of_match(verdict: Verdict, *kinds: str) -> pl.DataFrame:
    return verdict.match.differences.filter(pl.col("kind").is_in(kinds)).select(KEY)


def _elsewhere(bad: pl.DataFrame, streamed: pl.DataFrame, fetched: pl.DataFrame, moved: _Moved) -> pl.DataFrame:
    """The bad keys at which one side has exactly the values that the other has elsewhere; both places are named."""
    return pl.concat([moved(bad, streamed, fetched), moved(bad, fetched, streamed)])


def _in_another_minute(bad: pl.DataFrame, here: pl.DataFrame, there: pl.DataFrame) -> pl.DataFrame:
    found = []
    # A flat minute equals its neighbours without being in the wrong place.
    traded, other = here.filter(_TRADED).join(bad, on=KEY, how="semi"), there.filter(_TRADED)
    for shift_ms in (-MINUTE_MS, MINUTE_MS):
        moved = other.with_columns(pl.col("timestamp") + shift_ms)
        hits = traded.join(moved, on=[*KEY, *VALUES], how="semi").select(KEY)
        found += [hits, hits.with_columns(pl.col("timestamp") - shift_ms).join(bad, on=KEY, how="semi")]
    return pl.concat(found)


def _for_another_symbol(bad: pl.DataFrame, here: pl.DataFrame, there: pl.DataFrame) -> pl.DataFrame:
    traded = here.filter(_TRADED).join(bad, on=KEY, how="semi")
    others = there.filter(_TRADED).rename({"symbol": "other"})
    hits = traded.join(others, on=["market", "timestamp", *VALUES], how="inner").filter(
        pl.col("other") != pl.col("symbol")
    )
    return hits.select(KEY)


def _paired(bad: pl.DataFrame, streamed: pl.DataFrame, fetched: pl.DataFrame, fits: _Fits) -> pl.DataFrame:
    """The bad keys that both sides have and at which one side, either one, fits the other."""
    pairs = bad.join(streamed, on=KEY).join(fetched, on=KEY, suffix="_other")
    names = {name: f"{name}_other" for name in VALUES}
    swapped = {**names, **{other: name for name, other in names.items()}}
    return pl.concat([pairs.filter(fits()).select(KEY), pairs.rename(swapped).filter(fits()).select(KEY)])


def _is_flat() -> pl.Expr:
    one_price = pl.min_horizontal("open", "low", "close") == pl.max_horizontal("open", "high", "close")
    return one_price & (pl.col("volume") == 0) & (pl.col("volume_other") > 0)


def _is_unfinished() -> pl.Expr:
    less = [pl.col(name) <= pl.col(f"{name}_other") for name in ("high", "volume", "quote_volume", "trade_count")]
    same_open, higher_low = pl.col("open") == pl.col("open_other"), pl.col("low") >= pl.col("low_other")
    grows = (pl.col("volume") < pl.col("volume_other")) & (pl.col("quote_volume") < pl.col("quote_volume_other"))
    return pl.all_horizontal(*less, same_open, higher_low) & grows


if TYPE_CHECKING:
    from collections.abc import Callable

    _Moved = Callable[[pl.DataFrame, pl.DataFrame, pl.DataFrame], pl.DataFrame]
    _Fits = Callable[[], pl.Expr]
