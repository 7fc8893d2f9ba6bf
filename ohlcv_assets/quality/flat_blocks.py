"""Long flat blocks: minutes on end in which nothing was traded, of one symbol or of the whole exchange.

Lives here: the one rule that tells a thin symbol from a symbol whose trades are not in the bars, and the one that tells a
halt of a futures exchange. Does not: minutes without a bar (causes.py), or what is shown of it (orchestration/checks.py).

A flat bar has one price and no volume. Zero volume is no error: some symbols are silent in four minutes of ten. So silence
is judged by the symbol's own habit q: the share of its minutes that are flat, outside of the block in question, and two standard
deviations more, for an hour does not say much of a habit. Were its minutes independent, the longest silence in n minutes would
be about log(n (1 - q)) / log(1 / q) minutes. Real silences come in clusters, and are up to 3.4 times as long (spot, six days
of two symbols at 39 %, by the day and by the hour).

- **A suspicious block** is ten minutes or longer, more than four times as long as that, not a part of a halt, and the next
  bar opens at another price than the block stood at: something was traded that is not in the bars. A block whose price is
  still right afterwards may be a symbol that nobody trades any more. The known defects of the exchange's archive are 5.3
  times as long and more: 74 and 14 minutes, on one day, of a symbol that trades in nearly every other minute.
- **A halt** is two minutes or longer in which at least nine tenths of the symbols that have a bar, and at least two of
  them, are flat at once, and which by their habits would come about by chance less than once in a hundred such intervals.
"""

from __future__ import annotations

import polars as pl

from ohlcv_assets.timestamps import MINUTE_MS

LEAST_MINUTES, TIMES_LONGER = 10, 4.25
HALT_SHARE, HALT_SYMBOLS, HALT_MINUTES, HALT_BY_CHANCE = 0.9, 2, 2, 0.01

#: A bar of one price in which nothing was traded.
FLAT = (
    (pl.col("volume") == 0)
    & (pl.min_horizontal("open", "low", "close") == pl.col("high"))
    & pl.col("high").is_finite()
)

#: [start, end) in UNIX milliseconds; `minutes` in it; `price` it stood at, `next_open` of the bar after it, and by how much
#: that is off, in per cent of the price.
FLAT_BLOCKS_SCHEMA: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "start": pl.Int64(),
    "end": pl.Int64(),
    "minutes": pl.Int64(),
    "price": pl.Float64(),
    "next_open": pl.Float64(),
    "jump_pct": pl.Float64(),
}

#: [start, end) in UNIX milliseconds; of `symbols` that had a bar, at least `symbols_flat` were flat in every minute.
HALTS_SCHEMA: dict[str, pl.DataType] = {
    "start": pl.Int64(),
    "end": pl.Int64(),
    "minutes": pl.Int64(),
    "symbols_flat": pl.Int64(),
    "symbols": pl.Int64(),
}


def flat_blocks(bars: pl.DataFrame) -> pl.DataFrame:
    """The suspicious blocks, by the rule above: `FLAT_BLOCKS_SCHEMA`, sorted by symbol and start.

    Args:
        bars: rows with `symbol`, `timestamp`, prices and `volume`, of one market, in any order: an hour, a day, or more.
            The longer they are, the better a symbol's habit is known.
    """
    flat = _flat_minutes(bars)
    blocks = _runs(flat).filter(pl.col("minutes") >= LEAST_MINUTES)
    if blocks.is_empty():
        return pl.DataFrame(schema=FLAT_BLOCKS_SCHEMA)
    candidates = bars.filter(pl.col("symbol").is_in(blocks["symbol"].unique().to_list()))
    following = candidates.select("symbol", end="timestamp", next_open="open").unique(["symbol", "end"])
    found = _less_halts(blocks, halts(bars)).join(following, on=["symbol", "end"], how="inner")
    moved = found.with_columns(jump_pct=((pl.col("next_open") / pl.col("price") - 1).abs() * 100))
    counts = candidates.group_by("symbol").agg(all_minutes=pl.len(), flat_minutes=FLAT.sum())
    long = pl.col("minutes") >= TIMES_LONGER * _longest_by_chance()
    suspicious = moved.join(counts, on="symbol").filter((pl.col("jump_pct") > 0) & long)
    return suspicious.select(pl.col(name).cast(dtype) for name, dtype in FLAT_BLOCKS_SCHEMA.items()).sort(
        "symbol", "start"
    )


def halts(bars: pl.DataFrame) -> pl.DataFrame:
    """When the exchange as a whole stood still, by the rule above: `HALTS_SCHEMA`, sorted.

    Args:
        bars: as for `flat_blocks`. On a market that omits the minutes of a halt (spot) there is nothing to be found.
    """
    flat = _flat_minutes(bars)
    silent = _silent_minutes(bars, flat)
    if silent.is_empty():
        return pl.DataFrame(schema=HALTS_SCHEMA)
    # How probable it is that so many are silent in a minute by chance: their habits outside of these minutes.
    outside = ~pl.col("timestamp").is_in(silent["timestamp"].implode())
    everyone = bars.select("symbol", "timestamp").filter(outside).group_by("symbol").agg(all=pl.len())
    quiet = flat.filter(outside).group_by("symbol").agg(flat=pl.len())
    names = bars.select(pl.col("symbol").unique())
    habits = names.join(everyone, on="symbol", how="left").join(quiet, on="symbol", how="left").fill_null(0)
    log_chance = habits.select((_habit(pl.col("flat"), pl.col("all")).log()).sum() * HALT_SHARE).item()
    minutes = bars["timestamp"].n_unique()
    found = _merged(silent).filter(
        (pl.col("minutes") >= HALT_MINUTES)
        & (pl.lit(minutes).log() + pl.col("minutes") * log_chance < pl.lit(HALT_BY_CHANCE).log())
    )
    return found.select(pl.col(name).cast(dtype) for name, dtype in HALTS_SCHEMA.items()).sort("start")


def _flat_minutes(bars: pl.DataFrame) -> pl.DataFrame:
    """`symbol, timestamp, price` of every flat bar, sorted, each once."""
    has_key = pl.all_horizontal(pl.col("symbol", "timestamp").is_not_null())
    rows = bars.filter(FLAT & has_key).select("symbol", "timestamp", price="close")
    return rows.unique(["symbol", "timestamp"], keep="first").sort("symbol", "timestamp")


def _runs(flat: pl.DataFrame) -> pl.DataFrame:
    """Minutes on end of one symbol and price as one row each: `symbol, start, end, minutes, price`."""
    goes_on = pl.all_horizontal(
        pl.col("symbol").eq_missing(pl.col("symbol").shift()),
        pl.col("timestamp") == pl.col("timestamp").shift() + MINUTE_MS,
        pl.col("price") == pl.col("price").shift(),
    )
    runs = flat.with_columns(run=(~goes_on.fill_null(value=False)).cum_sum())
    return runs.group_by("run", maintain_order=True).agg(
        pl.first("symbol"),
        start=pl.first("timestamp"),
        end=pl.last("timestamp") + MINUTE_MS,
        minutes=pl.len().cast(pl.Int64),
        price=pl.first("price"),
    )


def _less_halts(blocks: pl.DataFrame, found: pl.DataFrame) -> pl.DataFrame:
    """The blocks that are long even without the minutes of halts."""
    if found.is_empty():
        return blocks
    pairs = blocks.join(found.select(halt_start="start", halt_end="end"), how="cross")
    shared = (pl.min_horizontal("end", "halt_end") - pl.max_horizontal("start", "halt_start")).clip(lower_bound=0)
    halted = pairs.group_by("symbol", "start").agg(halted=shared.sum() // MINUTE_MS)
    return (
        blocks.join(halted, on=["symbol", "start"])
        .filter(pl.col("minutes") - pl.col("halted") >= LEAST_MINUTES)
        .drop("halted")
    )


def _longest_by_chance() -> pl.Expr:
    """How long the longest silence would be in the symbol's other minutes."""
    others = pl.col("all_minutes") - pl.col("minutes")
    habit = _habit(pl.col("flat_minutes") - pl.col("minutes"), others)
    return ((others * (1 - habit)).clip(lower_bound=1).log() / -habit.log()).clip(lower_bound=1)


def _habit(flat: pl.Expr, minutes: pl.Expr) -> pl.Expr:
    """The share of a symbol's minutes that are flat, rather too high than too low, and neither 0 nor 1 however few are known."""
    likely = flat + 1 + 2 * (flat + 1).sqrt()
    return likely / (minutes - flat + 1 + likely)


def _silent_minutes(bars: pl.DataFrame, flat: pl.DataFrame) -> pl.DataFrame:
    """The minutes in which almost every symbol is flat: `timestamp, symbols_flat, symbols`, sorted."""
    quiet = flat.group_by("timestamp").agg(symbols_flat=pl.len().cast(pl.Int64))
    quiet = quiet.filter(pl.col("symbols_flat") >= HALT_SYMBOLS)
    if quiet.is_empty():
        return quiet.with_columns(symbols=pl.lit(0, pl.Int64))
    rows = bars.select("symbol", "timestamp").join(quiet, on="timestamp", how="semi")
    there = rows.group_by("timestamp").agg(symbols=pl.col("symbol").n_unique().cast(pl.Int64))
    silent = quiet.join(there, on="timestamp")
    return silent.filter(pl.col("symbols_flat") >= HALT_SHARE * pl.col("symbols")).sort("timestamp")


def _merged(silent: pl.DataFrame) -> pl.DataFrame:
    begins = (pl.col("timestamp") != pl.col("timestamp").shift() + MINUTE_MS).fill_null(value=True)
    return (
        silent.with_columns(run=begins.cum_sum())
        .group_by("run", maintain_order=True)
        .agg(
            start=pl.first("timestamp"),
            end=pl.last("timestamp") + MINUTE_MS,
            minutes=pl.len().cast(pl.Int64),
            symbols_flat=pl.min("symbols_flat"),
            symbols=pl.max("symbols"),
        )
    )
