"""`python -m benchmarks.coverage`: how long the client takes to count what there is, and the memory that it needs; one Markdown table.

Lives here: lakes of generated bars with holes in them, and each question asked in a process of its own, so that its peak is its own.
Does not: a database, whose keys take what they take to travel. `--keep FOLDER` leaves the lakes there for the next time.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import typer

from benchmarks.common import machine
from ohlcv_assets.bars import CAPTURED_SCHEMA
from ohlcv_assets.client import OhlcvClient
from ohlcv_assets.clock import utc_now
from ohlcv_assets.instruments import Market, Symbol, Universe, release_universe
from ohlcv_assets.listing_times import ListingTimes, Span
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, Interval, day_start_ms

_FIRST = date(2025, 1, 1)
_CASES = {"400 symbols x 30 days": (400, 30), "20 symbols x 365 days": (20, 365)}


def main(keep: Path | None = None, one: str | None = None) -> None:
    """Measure each case in a process of its own, and print the table."""
    if one is not None and keep is not None:
        _ask(keep, *json.loads(one))
        return
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="ohlcv-bench-") as folder:
        home = keep or Path(folder)
        typer.echo("| question | expected | missing | seconds | peak MiB |\n|---|---:|---:|---:|---:|")
        for name, (symbols, days) in _CASES.items():
            _fill(home, symbols, days)
            for method in ("coverage", "missing_ranges"):
                command = [sys.executable, "-m", "benchmarks.coverage", "--keep", str(home), "--one"]
                asked = json.dumps([symbols, days, method])
                answer = subprocess.run([*command, asked], check=True, capture_output=True, text=True)
                told = json.loads(answer.stdout)
                typer.echo(
                    f"| `{method}`, {name} | {told['expected']:,} | {told['missing']:,} | {told['seconds']:.2f} | {told['peak_mib']:,.0f} |"
                )
    typer.echo(f"\n{', '.join(machine())}")


def _settings(home: Path, symbols: int, days: int) -> Settings:
    own = home / f"{symbols}x{days}"
    return Settings(home=own, universe="v0.1", universes=own / "universes")


def _fill(home: Path, symbols: int, days: int) -> None:
    """A lake of these days: a hole in every hundredth symbol and day, and every tenth day not there at all."""
    settings = _settings(home, symbols, days)
    universe = _universe(symbols)
    release_universe(universe, settings.universes)
    lake, signature = Lake(settings.lake_url), Signature.daily(Market.SPOT, universe)
    there = set(lake.days(signature))
    for number in range(days):
        day = _FIRST + timedelta(days=number)
        if number % 10 != 9 and day not in there:
            lake.write_day(signature, day, _bars(universe.listed_in(Market.SPOT, Interval.of_day(day)), day, number))


def _universe(symbols: int) -> Universe:
    names = [Symbol(f"S{number:03}/USDT") for number in range(symbols)]
    times = [_listed(number) for number in range(symbols)]
    return Universe.of("v0.1", {Market.SPOT: list(names)}, listings=dict(zip(names, times, strict=True)))


def _listed(number: int) -> ListingTimes:
    """Every tenth symbol began in the middle of the second day."""
    since_ms = day_start_ms(_FIRST) + DAY_MS + DAY_MS // 2 if number % 10 == 0 else None
    return ListingTimes(f"S{number:03}USDT", (Span(since_ms, None, "generated"),))


def _bars(symbols: tuple[Symbol, ...], day: date, seed: int) -> pl.DataFrame:
    count = len(symbols) * 1_440
    close = 100 + np.random.default_rng(seed).random(count).round(2)
    names = pl.DataFrame({"symbol": list(map(str, symbols))}).with_row_index("row")
    minutes = pl.DataFrame({"timestamp": day_start_ms(day) + MINUTE_MS * np.arange(1_440)})
    frame = names.join(minutes, how="cross").with_columns(
        *(pl.Series(name, close) for name in ("open", "high", "low", "close")),
        *(pl.lit(1.0).alias(name) for name in ("volume", "taker_buy_volume", "taker_buy_quote_volume")),
        quote_volume=pl.Series(close),
        market=pl.lit("spot"),
        trade_count=pl.lit(3, pl.Int64),
        end_download_timestamp=pl.lit(utc_now(), CAPTURED_SCHEMA["end_download_timestamp"]),
    )
    hole = ((pl.col("row") + seed) % 100 == 0) & (pl.col("timestamp") % DAY_MS < 7 * MINUTE_MS)
    return frame.filter(~hole).select(list(CAPTURED_SCHEMA))


def _ask(home: Path, symbols: int, days: int, method: str) -> None:
    end = (_FIRST + timedelta(days=days)).isoformat()
    with OhlcvClient(_settings(home, symbols, days)) as client:
        began = time.perf_counter()
        found = getattr(client, method)("spot", _FIRST.isoformat(), end)
        seconds = time.perf_counter() - began
    expected = int(found["expected"].sum()) if method == "coverage" else 0
    missing = int(found["missing" if method == "coverage" else "minutes"].sum())
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    typer.echo(json.dumps({"expected": expected, "missing": missing, "seconds": seconds, "peak_mib": peak_mib}))


if __name__ == "__main__":
    typer.run(main)
