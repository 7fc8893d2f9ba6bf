"""The truth: per market, the bars that the exchange will have at last, exactly as a client must store them.

Lives here: reading a Parquet file of recorded bars, generating a market, and the way between the exchange's
own symbol names (BTCUSDT) and the unified ones (BTC/USDT, BTC/USDT:USDT). Does not: fields that a file lacks
(derive.py) or the random walk (generate.py). A truth always has both markets; one may be empty.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import polars as pl

from ohlcv_assets import bars
from ohlcv_assets.errors import InvalidBars, UsageError
from ohlcv_assets.instruments import Market, Symbol
from ohlcv_assets.replay import derive, generate
from ohlcv_assets.timestamps import MINUTE_MS, Interval, iso

#: Key and value columns of a bar: what the exchange knows of it.
TRUTH_SCHEMA: dict[str, pl.DataType] = {name: bars.SCHEMA[name] for name in (*bars.KEY, *bars.VALUES)}

Truth = dict[Market, pl.DataFrame]

# A quote asset is what the name ends with; a longer one wins, so that BTCFDUSD is not BTCFD quoted in USD.
_QUOTES = sorted(
    ("USDT", "USDC", "FDUSD", "BUSD", "TUSD", "USDP", "USD1", "DAI", "PAX", "USDS", "BTC", "ETH", "BNB", "XRP", "TRX",
     "DOGE", "SOL", "EUR", "GBP", "AUD", "TRY", "BRL", "RUB", "UAH", "NGN", "ZAR", "IDRT", "BIDR", "BVND", "JPY",
     "MXN", "ARS", "PLN", "RON", "CZK", "COP", "VAI"),
    key=len,
    reverse=True,
)  # fmt: skip

_REQUIRED = ("symbol", "open_time", "open", "high", "low", "close", "volume")
_RENAMED = {"open_time": "timestamp", "count": "trade_count"}


def load_truth(path: Path, market: Market) -> Truth:
    """The truth of a recorded file.

    Args:
        path: a Parquet file with columns symbol (BTCUSDT), open_time (UNIX ms), open, high, low, close, volume and
            perhaps quote_volume, count, taker_buy_volume, taker_buy_quote_volume.
        market: the market of every row.

    Returns:
        A frame a market, of `TRUTH_SCHEMA`, sorted by (symbol, timestamp); the other market's is empty.

    Raises:
        UsageError: no such file, no Parquet file, a column missing, a symbol whose quote asset is not known.
        InvalidBars: a bar breaks an invariant, or a minute is there twice.
    """
    frame = derive.complete(_typed(_read(path), path))
    names = {name: unified(name, market) for name in frame["symbol"].unique().sort()}
    frame = frame.with_columns(
        pl.lit(market.value).alias("market"), pl.col("symbol").replace_strict(names, return_dtype=pl.String())
    )
    frame = bars.validate(frame.select(list(TRUTH_SCHEMA))).sort("symbol", "timestamp")
    _refuse_duplicates(frame, path)
    return {each: frame if each is market else empty_frame() for each in Market}


def held_interval(path: Path) -> Interval:
    """From the first bar of a recorded file to the end of its last, without reading the rest.

    Raises:
        UsageError: no such file, no Parquet file, no open_time, no bars.
    """
    frame = _read(path, columns=["open_time"])
    if frame.is_empty():
        raise UsageError(f"{path} holds no bars", hint="give a Parquet file of one-minute bars")
    first_ms, last_ms = frame.select(pl.min("open_time"), pl.max("open_time").alias("last")).row(0)
    return Interval(int(first_ms), int(last_ms) + MINUTE_MS)


def generate_truth(*, symbols: int, days: int, seed: int, first_day: date) -> Truth:
    """A made-up truth of both markets: `symbols` symbols in each, `days` whole UTC days.

    Raises:
        UsageError: no symbol or no day was asked for.
    """
    if not (1 <= symbols <= 2000 and 1 <= days <= 366):
        raise UsageError(
            f"cannot generate {symbols} symbols for {days} days",
            hint="ask for 1 to 2000 symbols and 1 to 366 days",
        )
    return {
        market: generate.generated_bars(market, symbols=symbols, days=days, seed=seed, first_day=first_day)
        for market in Market
    }


def unified(exchange_symbol: str, market: Market) -> str:
    """The unified symbol of an exchange's name: BTCUSDT -> BTC/USDT, or BTC/USDT:USDT on futures.

    Raises:
        UsageError: the name ends with no quote asset that is known here.
    """
    quote = next((q for q in _QUOTES if exchange_symbol.endswith(q) and len(exchange_symbol) > len(q)), None)
    if quote is None:
        raise UsageError(
            f"{exchange_symbol!r} ends with no known quote asset",
            hint="name symbols as Binance does: BTCUSDT, ETHBTC",
        )
    spot_form = f"{exchange_symbol.removesuffix(quote)}/{quote}"
    return Symbol(spot_form if market is Market.SPOT else f"{spot_form}:{quote}")


def exchange_symbol(symbol: str) -> str:
    """The exchange's name of a unified symbol: BTC/USDT:USDT -> BTCUSDT."""
    return symbol.partition(":")[0].replace("/", "")


def empty_frame() -> pl.DataFrame:
    """A market without bars."""
    return pl.DataFrame(schema=TRUTH_SCHEMA)


def _read(path: Path, columns: list[str] | None = None) -> pl.DataFrame:
    if not path.is_file():
        raise UsageError(f"there is no file {path}", hint="give a Parquet file of one-minute bars with --data")
    try:
        return pl.read_parquet(path, columns=columns)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UsageError(
            f"{path} is no Parquet file: {error}", hint="give a Parquet file of one-minute bars"
        ) from error


def _typed(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    """The frame with our column names and dtypes; whole numbers become floats, nothing else is cast."""
    missing = [name for name in _REQUIRED if name not in frame.columns]
    if missing or frame.is_empty():
        raise UsageError(
            f"{path} has no column {', '.join(missing)}" if missing else f"{path} holds no bars",
            hint=f"the file needs rows with the columns {', '.join(_REQUIRED)}",
        )
    frame = frame.rename({old: new for old, new in _RENAMED.items() if old in frame.columns})
    known = [name for name in TRUTH_SCHEMA if name in frame.columns]
    try:
        return frame.select([pl.col(name).cast(TRUTH_SCHEMA[name]) for name in known])
    except pl.exceptions.PolarsError as error:
        raise UsageError(
            f"{path} has a column of the wrong type: {error}",
            hint="prices and volumes are numbers, open_time is UNIX ms",
        ) from error


def _refuse_duplicates(frame: pl.DataFrame, path: Path) -> None:
    twice = frame.filter(frame.select(bars.KEY).is_duplicated())
    if not twice.is_empty():
        symbol, timestamp = twice.select("symbol", "timestamp").row(0)
        raise InvalidBars(
            f"{path} holds {symbol} {iso(timestamp)} more than once", hint="each minute of a symbol may be there once"
        )
