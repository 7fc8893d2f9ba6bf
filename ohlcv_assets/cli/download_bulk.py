"""`ohlcv download-bulk`: a stretch of history, as the days of the lake or as bars in PostgreSQL.

Lives here: the command's options, what can be asked for at all, and its exit code. Does not: what is missing and getting
it (bulk_plan.py, bulk.py), or what is shown (cli/bulk_display.py). Each option can be written with dashes or with underscores.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer

from ohlcv_assets.cli.asked import UniverseOption
from ohlcv_assets.cli.completion import choices, complete_market
from ohlcv_assets.settings import Settings, lake_place, settings

if TYPE_CHECKING:
    import polars as pl

    from ohlcv_assets.bulk import Done
    from ohlcv_assets.bulk_plan import Plan
    from ohlcv_assets.cli.bulk_display import Display
    from ohlcv_assets.exchange.binance import Exchange
    from ohlcv_assets.instruments import Market, Symbol, Universe
    from ohlcv_assets.storage.lake import Lake, Signature
    from ohlcv_assets.timestamps import Interval

#: Of each option that could name something else: what there is.
_SUPPORTED = {
    "vendor": ("ccxt",),
    "exchange_id": ("binance",),
    "data_type": ("ohlcv",),
    "data_format": ("parquet", "postgres"),
}
#: As a shell reports a program that was ended by Ctrl-C.
_INTERRUPTED = 130
_Options = ParamSpec("_Options")

_Start = Annotated[str, typer.Option(help="First moment, UTC: 2025-06-01 or 2025-06-01T00:00Z.", show_default=False)]
_End = Annotated[str, typer.Option(help="The end, which is not part of it: 2025-07-01.", show_default=False)]
_Profile = Annotated[
    str | None, typer.Option(help="Profile of ~/.aws whose credentials reach the bucket.", show_default=False)
]
_Lake = Annotated[
    str | None,
    typer.Option("--s3-path", help="s3://bucket/prefix or a folder; default: OHLCV_LAKE.", show_default=False),
]


@dataclass(frozen=True)
class _Wish:
    """What was asked for, checked."""

    market: Market
    interval: Interval
    universe: Universe
    data_format: str
    signature: Signature
    lake_url: str
    dry_run: bool
    assert_complete: bool

    @property
    def symbols(self) -> tuple[Symbol, ...]:
        """The symbols of the universe."""
        return self.universe.symbols[self.market]


@dataclass(frozen=True)
class _Result:
    """What became of it; nothing on a dry run. `expected` bars and the `missing` of them: None when nobody looked."""

    plan: Plan
    done: Done | None = None
    expected: int | None = None
    missing: pl.DataFrame | None = None


def going_on(command: Callable[_Options, None]) -> Callable[_Options, None]:
    """Ctrl-C ends such a command with the code that shells use, and a word on how to go on; from its first moment on."""

    @wraps(command)
    def run(*options: _Options.args, **named: _Options.kwargs) -> None:
        try:
            command(*options, **named)
        except KeyboardInterrupt as error:
            typer.echo("stopped: the same command goes on where this one ended", err=True)
            raise typer.Exit(_INTERRUPTED) from error

    return run


@going_on
def download_bulk(
    start_timestamp: _Start,
    end_timestamp: _End,
    vendor: Annotated[str, typer.Option(help="Through what the exchange is asked: ccxt.")] = "ccxt",
    exchange_id: Annotated[str, typer.Option(help="The exchange: binance.")] = "binance",
    universe: UniverseOption = None,
    data_type: Annotated[str, typer.Option(help="ohlcv: one-minute bars.")] = "ohlcv",
    contract_type: Annotated[
        str, typer.Option(help="The market: spot or futures.", autocompletion=complete_market)
    ] = "futures",
    aws_profile: _Profile = None,
    s3_path: _Lake = None,
    assert_on_missing_data: Annotated[
        bool, typer.Option("--assert-on-missing-data", help="Exit with 1 when a bar is missing, and name each range.")
    ] = False,
    download_mode: Annotated[str, typer.Option(help="First part of the dataset's path.")] = "periodic_daily",
    downloading_entity: Annotated[
        str, typer.Option(help="Second part; `dagster` is the dataset of daily_bars and of the client.")
    ] = "dagster",
    action_tag: Annotated[str, typer.Option(help="Third part of the dataset's path.")] = "downloaded_1min",
    data_format: Annotated[
        str,
        typer.Option(
            help="parquet: days of the lake; postgres: bars in PostgreSQL.",
            autocompletion=choices(*_SUPPORTED["data_format"]),
        ),
    ] = "parquet",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and fetch nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line: plan, progress, report.")] = False,
) -> None:
    """Fetch the history of a market by REST, at the exchange's own limit, and only what is not there yet.

    \b
    Examples:
      ohlcv download-bulk --start_timestamp 2025-06-01 --end_timestamp 2025-07-01 --contract_type spot
      ohlcv download-bulk --start-timestamp 2024-01-01 --end-timestamp 2025-01-01 --dry-run

    The interval is half-open, UTC. The lake holds whole UTC days: with --data_format parquet every finished day that the
    interval touches is fetched, whole; with postgres exactly its minutes. Ended or killed, the same command goes on where
    it stopped. Exit code: 0 done, 1 bars are missing (--assert_on_missing_data), 2 the question cannot be meant, 3 exchange
    or store are unavailable.
    """  # noqa: D301  \b keeps the examples' lines
    from ohlcv_assets.cli.bulk_display import open_display
    from ohlcv_assets.storage.lake import Signature

    named = {"vendor": vendor, "exchange_id": exchange_id, "data_type": data_type, "data_format": data_format}
    _insist_on_supported(named)
    _insist_on_a_lake(data_format, s3_path)
    configured = settings()
    market, interval, released = _what(configured, contract_type, start_timestamp, end_timestamp, universe)
    parts = {"download_mode": download_mode, "downloading_entity": downloading_entity, "action_tag": action_tag}
    signature = Signature(
        **parts, **(named | {"data_format": "parquet"}), contract_type=market.value, universe=released.path_form
    )
    if aws_profile is not None:
        _use_profile(aws_profile)
    lake_url = _lake_url(configured, s3_path)
    wish = _Wish(market, interval, released, data_format, signature, lake_url, dry_run, assert_on_missing_data)
    with open_display(as_json=as_json) as display:
        result = asyncio.run(_download(configured, wish, display))
        _report(wish, result, display)


def _insist_on_supported(named: dict[str, str]) -> None:
    from ohlcv_assets.errors import UsageError

    for option, value in named.items():
        if value not in _SUPPORTED[option]:
            raise UsageError(
                f"--{option} {value} is not supported", hint=f"use --{option} {' or '.join(_SUPPORTED[option])}"
            )


def _insist_on_a_lake(data_format: str, s3_path: str | None) -> None:
    from ohlcv_assets.errors import UsageError

    if data_format != "parquet" and s3_path is not None:
        raise UsageError(
            f"--data_format {data_format} stores nothing in a lake, and --s3_path {s3_path} is one",
            hint="leave one of them away",
        )


def _what(
    configured: Settings, contract_type: str, start: str, end: str, version: str | None
) -> tuple[Market, Interval, Universe]:
    from ohlcv_assets.cli.asked import universe_of
    from ohlcv_assets.instruments import Market
    from ohlcv_assets.timestamps import Interval

    interval, market = Interval.parse(start, end), Market.parse(contract_type)
    return market, interval, universe_of(configured, version, market)


def _lake_url(configured: Settings, s3_path: str | None) -> str:
    """The lake below that path, read as OHLCV_LAKE is: the region last."""
    from ohlcv_assets.errors import UsageError

    if s3_path is None:
        return configured.lake_url
    try:
        place = lake_place(s3_path)
    except ValueError as error:
        what, _, hint = str(error).partition(": ")
        raise UsageError(f"--s3_path {what}", hint=hint or "give a folder, or s3://bucket/prefix") from error
    return configured.model_copy(update={"lake": place}).lake_url


def _use_profile(name: str) -> None:
    """Put the profile's credentials where every store of this process reads them."""
    import boto3
    from botocore.exceptions import BotoCoreError

    from ohlcv_assets.errors import UsageError

    try:
        session = boto3.Session(profile_name=name)
        found = session.get_credentials()
    except BotoCoreError as error:
        raise UsageError(f"--aws_profile {name}: {error}", hint="look into ~/.aws/config and credentials") from error
    if found is None:
        raise UsageError(f"--aws_profile {name} has no credentials", hint="look into ~/.aws/credentials")
    keys = found.get_frozen_credentials()
    values = {
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        "AWS_SESSION_TOKEN": keys.token,
        "AWS_REGION": session.region_name,
    }
    os.environ.pop("AWS_SESSION_TOKEN", None)
    os.environ.update({variable: value for variable, value in values.items() if value})


async def _download(configured: Settings, wish: _Wish, display: Display) -> _Result:
    from ohlcv_assets.cli.stores import open_lake
    from ohlcv_assets.exchange.binance import open_exchange

    lake = open_lake(configured, wish.lake_url)
    if wish.data_format == "parquet" and not wish.dry_run:
        # Before the exchange is asked: its answers would be for nothing.
        await asyncio.to_thread(lake.insist_on_writing)
    async with open_exchange(wish.market, configured, wish.universe.listings, wish.symbols) as exchange:
        if wish.data_format == "postgres":
            return await _into_database(configured, wish, exchange, display)
        return await _into_lake(lake, wish, exchange, display)


async def _into_lake(lake: Lake, wish: _Wish, exchange: Exchange, display: Display) -> _Result:
    from ohlcv_assets.bulk import download_days
    from ohlcv_assets.bulk_plan import plan_days
    from ohlcv_assets.quality.backfill import missing_days

    dataset = exchange, lake, wish.signature
    plan = await asyncio.to_thread(plan_days, *dataset, wish.symbols, wish.interval)
    display.plan(plan, dry_run=wish.dry_run)
    if wish.dry_run:
        return _Result(plan)
    done = await download_days(*dataset, plan, universe_hash=wish.universe.content_hash, on_done=display.done)
    if not wish.assert_complete:
        return _Result(plan, done)
    expected, missing = await asyncio.to_thread(missing_days, *dataset, wish.symbols, plan.interval)
    return _Result(plan, done, expected, missing)


async def _into_database(configured: Settings, wish: _Wish, exchange: Exchange, display: Display) -> _Result:
    from ohlcv_assets.bulk import download_bars
    from ohlcv_assets.bulk_plan import plan_bars
    from ohlcv_assets.cli.stores import open_database
    from ohlcv_assets.quality.backfill import missing_bars

    with await asyncio.to_thread(open_database, configured) as database:
        plan = await asyncio.to_thread(plan_bars, exchange, database, wish.symbols, wish.interval)
        display.plan(plan, dry_run=wish.dry_run)
        if wish.dry_run:
            return _Result(plan)
        done = await download_bars(exchange, database, plan, run_id=run_id_of(exchange), on_done=display.done)
        if not wish.assert_complete:
            return _Result(plan, done)
        expected, missing = await asyncio.to_thread(missing_bars, exchange, database, wish.symbols, plan.interval)
        return _Result(plan, done, expected, missing)


def run_id_of(exchange: Exchange) -> str:
    """What traces a bar to this process: it is stored with each."""
    return f"bulk-{os.getpid()}-{exchange.clock.now_ms()}"


def _report(wish: _Wish, result: _Result, display: Display) -> None:
    if result.done is None:
        return
    done, missing = result.done, result.missing
    place = wish.lake_url if wish.data_format == "parquet" else "PostgreSQL"
    absent = done.facts()["absent"]
    words = f"{done.stored:,} bars stored in {place}, {done.requests:,} requests, weight {done.weight:,}"
    words += f"; the exchange does not have {absent:,} minutes (two answers agree)" if absent else ""
    if missing is not None:
        words += f"; {_judged(result.expected, missing)}"
    facts = {**done.facts(), "bars_expected": result.expected}
    facts["bars_missing"] = None if missing is None else missing.height
    display.report(words, facts, missing)
    if missing is not None and (missing.height or not result.expected):
        raise typer.Exit(1)


def _judged(expected: int | None, missing: pl.DataFrame) -> str:
    """What is missing, in words; where nothing is expected, nothing was proved."""
    if not expected:
        return "no bar is expected: none of the symbols was listed then"
    return f"{missing.height:,} of {expected:,} bars are missing" if missing.height else "no bar is missing"
