"""The trials in which the exchange breaks: which fault hits which symbols or minutes, and what became of the bars.

Lives here: rows of `Symbols` and `Phase`, and running everything at once. Does not: which faults there are (matrix.py), the
servers (stage.py), what was found (findings.py), or the trials that break our own side (own_trials.py).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from ohlcv_assets.bars import Channel
from ohlcv_assets.exchange.fetch import fetch_bars
from ohlcv_assets.instruments import Market
from ohlcv_assets.storage.database import Database
from ohlcv_assets.timestamps import MINUTE_MS, Interval
from ohlcv_assets_tests.faults.findings import Found, judged_phase, judged_symbols
from ohlcv_assets_tests.faults.matrix import ROWS, Phase, Row, Symbols
from ohlcv_assets_tests.faults.own_trials import OWN
from ohlcv_assets_tests.faults.stage import ARMED, SYMBOLS_A_ROW, Stage, phases
from ohlcv_assets_tests.fixtures.replay import ReplayHandle

#: What decides the listing must be known before a stream begins; this many seconds into the capture.
_LISTED_AT_S = 300


async def try_everything(staged: Stage) -> dict[str, Found]:
    """What was found of every row that is shown here."""
    random.seed(7)
    _import_slow_things()
    async with AsyncExitStack() as open_things:
        await staged.begin(open_things)
        await _list_symbols(staged)
        trials = [_try_symbols(staged, market) for market in Market]
        trials += [_try_phases(staged, server, market) for server in ("cuts", "silence") for market in Market]
        trials += [own(staged) for own in OWN]
        breaking = asyncio.gather(*(_break(staged, server) for server in ARMED))
        found: dict[str, Found] = {}
        for part in await asyncio.gather(*trials):
            found |= part
        await breaking
    return found


def _import_slow_things() -> None:
    """Before the clocks run fast: importing takes seconds, which would be minutes there."""
    import ccxt.async_support
    import ccxt.pro  # noqa: F401


async def _break(staged: Stage, server: str) -> None:
    """Everything that goes wrong on one exchange, from when its streams are subscribed."""
    if server == "symbols":
        needed = {market: len(_rows(market)) * SYMBOLS_A_ROW for market in Market}
    else:
        handle = staged.exchanges[server]
        needed = {market: handle.truth(market)["symbol"].n_unique() for market in Market}
    await staged.arm(server, needed)
    staged.exchanges[server].inject(
        _symbol_rules(staged) if server == "symbols" else [r for m in Market for r in _phase_rules(staged, server, m)]
    )
    await staged.disarm(server)


# Trials by symbol ---------------------------------------------------------------------------------------------------


def _rows(market: Market) -> list[Row]:
    return [row for row in ROWS if isinstance(row.shown, Symbols) and row.shown.market is market]


def _symbols_of(row: Row, handle: ReplayHandle) -> list[str]:
    """The symbols that a row of `Symbols` has for itself."""
    assert isinstance(row.shown, Symbols)
    first = [other.number for other in _rows(row.shown.market)].index(row.number) * SYMBOLS_A_ROW
    return _names(handle, row.shown.market)[first : first + SYMBOLS_A_ROW]


def _names(handle: ReplayHandle, market: Market) -> list[str]:
    return handle.truth(market)["symbol"].unique().sort().to_list()


def _exchange_names(symbols: Iterable[str]) -> list[str]:
    return [symbol.partition(":")[0].replace("/", "") for symbol in symbols]


async def _list_symbols(staged: Stage) -> None:
    handle, from_ms = staged.exchanges["symbols"], staged.start_ms("symbols") + _LISTED_AT_S * 1000
    for row in _rows(Market.FUTURES):
        if isinstance(row.shown, Symbols) and row.shown.rules and row.shown.rules[0]["fault"] == "list_at":
            symbols = _exchange_names(_symbols_of(row, handle))
            handle.inject([{"fault": "list_at", "market": "futures", "symbols": symbols, "from": from_ms}])
    await asyncio.gather(*(exchange.load_listing() for exchange in staged.opened("symbols")))


def _symbol_rules(staged: Stage) -> list[dict[str, Any]]:
    handle, interval = staged.exchanges["symbols"], staged.faults("symbols")
    rules = []
    for row in ROWS:
        for given in row.shown.rules if isinstance(row.shown, Symbols) else ():
            rule = dict(given)
            if rule["fault"] == "list_at":
                continue
            begins_ms = interval.start_ms + 1000 * rule.pop("at", 0)
            until_ms = interval.start_ms + 1000 * rule.pop("until") if "until" in rule else None
            where = {"market": row.shown.market.value, "symbols": _exchange_names(_symbols_of(row, handle))}
            rules.append({**rule, **where, "from": begins_ms, "until": until_ms})
    return rules


async def _try_symbols(staged: Stage, market: Market) -> dict[str, Found]:
    """Every row of `Symbols` in a market, in one stream."""
    handle, rows = staged.exchanges["symbols"], _rows(market)
    symbols = [symbol for row in rows for symbol in _symbols_of(row, handle)]
    with Database(staged.database_url()) as database:
        watched = await staged.streamed("symbols", market, database, symbols=symbols)
        interval = staged.interval("symbols")
        first = await asyncio.to_thread(database.read, market, interval)
        again = [s for row in rows if isinstance(row.shown, Symbols) and row.shown.again for s in _symbols_of(row, handle)]  # fmt: skip
        await _capture_again(watched.exchange, database, again, interval)
        latest = await asyncio.to_thread(database.read, market, interval)
    return {
        row.number: judged_symbols(watched, handle, interval, _symbols_of(row, handle), first, latest, row.injected)
        for row in rows
    }


async def _capture_again(exchange: Any, database: Database, symbols: Sequence[str], interval: Interval) -> None:
    """As the ten-minute comparison does, and what is decided there goes in as a revision."""
    if symbols:
        # The last bars are restated some time after their end.
        await exchange.clock.sleep(120)
        fetched = await fetch_bars(exchange, sorted(symbols), interval)
        await asyncio.to_thread(database.record, fetched.bars, channel=Channel.REST, run_id="again", reason="qa")


# Trials by phase ----------------------------------------------------------------------------------------------------


def _phase_intervals(staged: Stage, server: str, market: Market) -> list[tuple[Phase, Interval]]:
    """The phases of a market with their minutes."""
    found, start_ms = [], staged.faults(server).start_ms
    for phase in phases(server, market):
        end_ms = start_ms + phase.minutes * MINUTE_MS
        found.append((phase, Interval(start_ms, end_ms)))
        start_ms = end_ms
    return found


def _phase_rules(staged: Stage, server: str, market: Market) -> list[dict[str, Any]]:
    handle, rules = staged.exchanges[server], []
    for phase, interval in _phase_intervals(staged, server, market):
        for given in phase.rules:
            rule = dict(given)
            if "symbols" in rule:
                rule["symbols"] = _exchange_names(_names(handle, market)[: rule["symbols"]])
            begins_ms = interval.start_ms + 1000 * rule.pop("from", 0)
            until_ms = interval.start_ms + 1000 * rule.pop("until", phase.minutes * 60)
            rules.append({**rule, "market": market.value, "from": begins_ms, "until": until_ms})
    return rules


async def _try_phases(staged: Stage, server: str, market: Market) -> dict[str, Found]:
    """Every phase of an exchange's market, in one stream."""
    with Database(staged.database_url()) as database:
        watched = await staged.streamed(server, market, database)
        stored = await asyncio.to_thread(database.read, market, staged.interval(server))
    rows = {id(row.shown): row for row in ROWS}
    return {
        rows[id(phase)].number: judged_phase(
            watched, staged.exchanges[server], interval, stored, rows[id(phase)].injected
        )
        for phase, interval in _phase_intervals(staged, server, market)
    }
