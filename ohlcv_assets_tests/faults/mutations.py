"""Every kind of defect that a capture of bars can have, planted into real days: what the mutation test is made of.

Lives here: one function a kind, which damages a frame and says what it damaged, and what the QA must call it. Does not:
the days (builders.recorded), or the QA. Each defect is planted at places of its own, so that no two of them meet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from ohlcv_assets.bars import KEY, SCHEMA, VALUES
from ohlcv_assets.quality.diagnosis import Kind
from ohlcv_assets.timestamps import MINUTE_MS

_PRICES = ("open", "high", "low", "close")
_AMOUNTS = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")

#: Rows of the day (with a column `row`) that are to be damaged -> the rows in their place, however many.
Damage = Callable[[pl.DataFrame, np.random.Generator], pl.DataFrame]


@dataclass(frozen=True)
class Mutation:
    """A defect.

    Attributes:
        name: what was done.
        damage: does it.
        kinds: what the diagnosis may call a bar that was damaged so; the key of such a bar must have one of them.
        keys: the keys at which it must be named, given the rows as they were and as they became.
    """

    name: str
    damage: Damage
    kinds: tuple[Kind, ...]
    keys: Callable[[pl.DataFrame, pl.DataFrame], pl.DataFrame]


def _before(original: pl.DataFrame, _: pl.DataFrame) -> pl.DataFrame:
    return original.select(KEY)


def _after(_: pl.DataFrame, damaged: pl.DataFrame) -> pl.DataFrame:
    return damaged.select(KEY)


def _set(**columns: pl.Expr) -> Damage:
    return lambda rows, _: rows.with_columns(**columns)


def _last_digit(column: str) -> Damage:
    """The next double: what is the least that a value can be off by; a count by one."""

    def damage(rows: pl.DataFrame, _: np.random.Generator) -> pl.DataFrame:
        values = rows[column].to_numpy()
        off = values + 1 if values.dtype.kind == "i" else np.nextafter(values, np.inf)
        return rows.with_columns(pl.Series(column, off))

    return damage


def _unfinished(rows: pl.DataFrame, random: np.random.Generator) -> pl.DataFrame:
    """What the bar was some seconds before its end: the same open, a narrower range, a part of the volume."""
    part = pl.Series("part", random.uniform(0.2, 0.8, rows.height))
    early = [(pl.col(name) * part).alias(name) for name in _AMOUNTS]
    inside = pl.max_horizontal("open", "close")
    return rows.with_columns(
        *early, high=inside, low=pl.min_horizontal("open", "close"), trade_count=pl.lit(1, pl.Int64)
    )


def _shifted(rows: pl.DataFrame, _: np.random.Generator) -> pl.DataFrame:
    return rows.with_columns(pl.col("timestamp") + MINUTE_MS)


def _swapped(rows: pl.DataFrame, _: np.random.Generator) -> pl.DataFrame:
    """Two symbols of one minute with each other's values: rows come in such pairs."""
    pair = pl.int_range(pl.len()) // 2
    return rows.with_columns(pl.col(VALUES).reverse().over(pair, mapping_strategy="group_to_rows"))


def _flat(rows: pl.DataFrame, _: np.random.Generator) -> pl.DataFrame:
    price = pl.col("open")
    zero = {name: pl.lit(0.0) for name in _AMOUNTS}
    return rows.with_columns(**dict.fromkeys(_PRICES, price), **zero, trade_count=pl.lit(0, pl.Int64))


def _twice(rows: pl.DataFrame, _: np.random.Generator) -> pl.DataFrame:
    return pl.concat([rows, rows])


def _gone(rows: pl.DataFrame, _: np.random.Generator) -> pl.DataFrame:
    return rows.clear()


MUTATIONS: tuple[Mutation, ...] = (
    *(
        Mutation(f"{name} off in its last digit", _last_digit(name), (Kind.VALUE, Kind.UNSOUND, Kind.UNFINISHED), _before)
        for name in VALUES
    ),
    Mutation("unfinished bar", _unfinished, (Kind.UNFINISHED,), _before),
    Mutation("missing", _gone, (Kind.MISSING,), _before),
    Mutation("there twice", _twice, (Kind.DUPLICATE,), _before),
    Mutation("shifted by a minute", _shifted, (Kind.OTHER_MINUTE,), _before),
    Mutation("two symbols swapped", _swapped, (Kind.OTHER_SYMBOL,), _before),
    *(Mutation(f"NaN {name}", _set(**{name: pl.lit(float("nan"))}), (Kind.UNSOUND,), _before) for name in ("close", "volume")),
    *(Mutation(f"null {name}", _set(**{name: pl.lit(None, SCHEMA[name])}), (Kind.UNSOUND,), _before) for name in ("open", "trade_count")),
    *(Mutation(f"negative {name}", _set(**{name: -pl.col(name)}), (Kind.UNSOUND,), _before) for name in ("low", "volume")),
    Mutation("high below low", _set(high=pl.col("low") * 0.99), (Kind.UNSOUND,), _before),
    Mutation("off the grid", _set(timestamp=pl.col("timestamp") + 1), (Kind.OFF_GRID,), _after),
    Mutation("microseconds for milliseconds", _set(timestamp=pl.col("timestamp") * 1000), (Kind.WRONG_UNIT,), _after),
    Mutation("seconds for milliseconds", _set(timestamp=pl.col("timestamp") // 1000), (Kind.WRONG_UNIT,), _after),
    Mutation("flat block", _flat, (Kind.FLAT,), _before),
)  # fmt: skip


@dataclass(frozen=True)
class Planted:
    """A damaged day, and where it was damaged: `mutation, market, symbol, timestamp, kinds`."""

    day: pl.DataFrame
    places: pl.DataFrame


def plant(day: pl.DataFrame, *, each: int, seed: int) -> Planted:
    """Damage `each` bars (pairs of bars where two are swapped) in every way, none of them twice or beside another.

    Args:
        day: sorted bars of one market, `CAPTURED_SCHEMA`.
        each: how many places a kind.
        seed: of the places.
    """
    random = np.random.default_rng(seed)
    numbered = day.with_row_index("row")
    places, damaged, gone = [], [], []
    for mutation, chosen in zip(MUTATIONS, _places(numbered, each, random), strict=True):
        became = mutation.damage(chosen.drop("row"), random)
        damaged.append(became.select(day.columns))
        gone.append(chosen.select("row"))
        kinds = ",".join(mutation.kinds)
        places.append(
            mutation.keys(chosen, became).unique().with_columns(mutation=pl.lit(mutation.name), kinds=pl.lit(kinds))
        )
    kept = numbered.join(pl.concat(gone), on="row", how="anti").drop("row")
    return Planted(pl.concat([kept, *damaged]).sort("symbol", "timestamp", nulls_last=True), pl.concat(places))


def _places(numbered: pl.DataFrame, each: int, random: np.random.Generator) -> list[pl.DataFrame]:
    """Traded bars for every mutation, all symbols of a minute at most once in four minutes: defects do not touch."""
    traded = numbered.filter((pl.col("trade_count") > 0) & (pl.col("high") > pl.col("low")) & (pl.col("volume") > 0))
    moved = pl.any_horizontal([pl.col(name).diff().over("symbol") != 0 for name in VALUES])
    spread = traded.filter(moved & (pl.col("timestamp") // MINUTE_MS % 4 == 1))
    pairs = spread.sort("timestamp", "symbol").filter(pl.len().over("timestamp") >= 2)
    swaps = _pairs(pairs, each, random)
    rest = spread.join(swaps.select("timestamp").unique(), on="timestamp", how="anti")
    shuffled = rest.sample(fraction=1.0, shuffle=True, seed=int(random.integers(2**31)))
    taken, offset = [], 0
    for mutation in MUTATIONS:
        if mutation.damage is _swapped:
            taken.append(swaps)
            continue
        taken.append(shuffled.slice(offset, each))
        offset += each
    assert offset <= shuffled.height, f"the day has {shuffled.height} places, {offset} are needed"
    return taken


def _pairs(candidates: pl.DataFrame, each: int, random: np.random.Generator) -> pl.DataFrame:
    """Two bars of one minute, `each` times, the two beside each other."""
    minutes = candidates["timestamp"].unique().sort().to_numpy()
    chosen = pl.DataFrame({"timestamp": random.choice(minutes, size=min(each, len(minutes)), replace=False)})
    return (
        candidates.join(chosen, on="timestamp", how="semi")
        .filter(pl.int_range(pl.len()).over("timestamp") < 2)
        .sort("timestamp", "symbol")
    )
