"""Download throughput by REST, ours beside ccxt's own `fetch_ohlcv`, with the exchange's limits on and off, as one table.

Lives here: the cases, their processes, and the table. Does not: any download. Each case is a client process of its own against a
replay exchange process, so that its CPU time is its own; server and client share this machine.

- limits on: both markets at once, the exchange's clock at 1x, for whole clock minutes, each shape again and again; the exchange's
  own counter says what share of its limit was used, and how often it answered 429.
- limits on, three at once: two of our clients and one that fetches ten-minute windows as the QA does, on one budget, at 2x.
- limits off: the exchange's clock at 600x, so that a minute's budget is there anew every tenth of a second.

ccxt gets its best page (499 klines on futures, where its default would cost 2.5 times the weight a bar; 1,000 on spot), its own
rate limiter when limits are on, and as many requests at once as ours. Both clients end with bars in memory; the rows
`download-bulk` are the whole command, its start and the Parquet files in the lake included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import typer

from benchmarks.common import ReplayServer, machine, require
from ohlcv_assets.bulk import REQUESTS_AT_ONCE
from ohlcv_assets.exchange.binance import PAGE_MINUTES, ccxt_config, open_exchange
from ohlcv_assets.exchange.budget import WEIGHT_PER_MINUTE
from ohlcv_assets.exchange.fetch import fetch_bars, in_parallel
from ohlcv_assets.instruments import Market, Universe, release_universe
from ohlcv_assets.settings import Settings
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, Interval, day_start_ms, floor_to

TITLE = "Downloading"
FIRST_DAY = date(2024, 6, 1)
#: How long ccxt is watched with limits on: its limiter spends evenly.
_CCXT_LIMITED_S = 15.0
_START_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Shape:
    """What is downloaded: so many symbols and days."""

    name: str
    symbols: int
    days: int

    @property
    def interval(self) -> Interval:
        """The days."""
        start_ms = day_start_ms(FIRST_DAY)
        return Interval(start_ms, start_ms + self.days * DAY_MS)


SHAPES = (Shape("a year x 1 symbol", 1, 365), Shape("a day x 400 symbols", 400, 1))


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    market: Market
    case: str
    client: str
    bars: int
    taken_s: float
    cpu_s: float
    weight_pct: float | None = None
    refused: int | None = None

    @property
    def bars_a_second(self) -> float:
        """Throughput."""
        return self.bars / self.taken_s


@contextmanager
def exchange_of(symbols: int, days: int, *, speed: float, second: int = 0) -> Iterator[ReplayServer]:
    """A generated exchange, on whose clock these days are just over, at that second of a minute."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server = ReplayServer.at_port(probe.getsockname()[1])
    start_ms = day_start_ms(FIRST_DAY) + days * DAY_MS + 10 * MINUTE_MS + second * 1000
    command = server.command(
        symbols=symbols, first_day=FIRST_DAY, days=days + 1, seed=7, start_ms=start_ms, speed=speed
    )
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not server.answers():
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise SystemExit(f"the exchange did not start: {command}")
            time.sleep(0.1)
        yield server
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Run every case, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=int, default=1, help="full clock minutes with limits on")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.case:
        typer.echo(json.dumps(asyncio.run(_case(**json.loads(chosen.case)))))
        return
    rows = [*limits_off(), *limits_on(chosen.minutes), three_at_once()]
    typer.echo("\n".join(["", *(f"- {line}" for line in machine()), "", *markdown(rows)]))


def run(
    shapes: Sequence[Shape] = SHAPES, markets: Sequence[Market] = tuple(Market), minutes: int = 1
) -> Iterator[str]:
    """The section of `make bench`: lines of Markdown. Limits are left on for so many clock minutes, 0 for not at all.

    Raises:
        WrongResult: with limits off ours did not bring as many bars as ccxt's loop.
    """
    rows = list(limits_off(shapes, markets))
    rows += limits_on(minutes, shapes) if minutes else []
    yield from markdown(rows)
    bars: dict[tuple[Market, str], set[int]] = {}
    for row in rows:
        if row.case.endswith("limits off"):
            bars.setdefault((row.market, row.case), set()).add(row.bars)
    require(all(len(counts) == 1 for counts in bars.values()), f"the clients' numbers of bars: {bars}")


def limits_off(shapes: Sequence[Shape] = SHAPES, markets: Sequence[Market] = tuple(Market)) -> Iterator[Row]:
    """As fast as client and server go."""
    for shape in shapes:
        with exchange_of(shape.symbols, shape.days, speed=600.0) as server:
            for market in markets:
                for client in ("ohlcv", "ccxt"):
                    found = _finish(_start(client, market, server, shape.days, shape.symbols, limited=False))
                    yield _told(Row(market, f"{shape.name}, limits off", client, **found))
                yield _told(_command(market, server, shape))


def limits_on(minutes: int, shapes: Sequence[Shape] = SHAPES) -> Iterator[Row]:
    """At the exchange's own pace: each shape again and again, both markets at once."""
    for shape in shapes:
        for client in ("ohlcv", "ccxt"):
            yield from _limited(client, shape, minutes)


def _limited(client: str, shape: Shape, minutes: int) -> Iterator[Row]:
    # The clock stands at :50 when the exchange is there: the first full minute is near.
    with exchange_of(shape.symbols, shape.days, speed=1.0, second=50) as server:
        running = {
            market: _start(client, market, server, shape.days, shape.symbols, limited=True, minutes=minutes)
            for market in Market
        }
        found = {market: _finish(process) for market, process in running.items()}
        stats = server.stats()
    for market in Market:
        used, limit = _used(stats, market, found[market].pop("full_minutes")), WEIGHT_PER_MINUTE[market]
        share = 100 * used / limit if client == "ohlcv" else None
        refused = stats["refused"]["429"]
        yield _told(
            Row(market, f"{shape.name}, limits on", client, **found[market], weight_pct=share, refused=refused)
        )


def three_at_once() -> Row:
    """Two backfills and the QA's windows share one budget; the exchange counts."""
    market, minutes = Market.FUTURES, 1
    with exchange_of(400, 2, speed=2.0, second=25) as server:
        clients = ("ohlcv", "ohlcv", "windows")
        running = [_start(client, market, server, 2, 400, limited=True, minutes=minutes) for client in clients]
        found = [_finish(process) for process in running]
        stats = server.stats()
    used = _used(stats, market, found[0]["full_minutes"])
    total = {name: sum(each[name] for each in found) for name in ("bars", "cpu_s")}
    share, refused = 100 * used / WEIGHT_PER_MINUTE[market], stats["refused"]["429"]
    return _told(Row(market, "three at once, limits on, 2x", "ohlcv", **total, taken_s=found[0]["taken_s"], weight_pct=share, refused=refused))  # fmt: skip


def _used(stats: dict[str, Any], market: Market, minutes: list[int]) -> float:
    """What the exchange counted in a full minute, on average; never more than its limit in any."""
    by_minute = {int(minute): used for minute, used in stats["used_weight"][market.value].items()}
    if max(by_minute.values()) > WEIGHT_PER_MINUTE[market]:
        raise SystemExit(f"the limit of {market} was passed: {by_minute}")
    return sum(by_minute.get(minute, 0) for minute in minutes) / max(len(minutes), 1)


def _start(
    client: str, market: Market, server: ReplayServer, days: int, symbols: int, *, limited: bool, minutes: int = 1
) -> subprocess.Popen[str]:
    case = {"client": client, "market": market.value, "url": server.url, "days": days, "symbols": symbols}
    line = json.dumps(case | {"limited": limited, "minutes": minutes})
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.download", "--case", line], stdout=subprocess.PIPE, text=True
    )


def _finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a case failed: {process.args!r}")
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def _told(row: Row) -> Row:
    typer.echo(f"{row.market} {row.case} {row.client}: {row.bars_a_second:,.0f} bars/s", err=True)
    return row


def _command(market: Market, server: ReplayServer, shape: Shape) -> Row:
    """The whole command, into a lake of its own."""
    end = FIRST_DAY + timedelta(days=shape.days)
    line = [sys.executable, "-m", "ohlcv_assets.cli", "download-bulk", "--json", "--contract_type", market.value]
    line += ["--start_timestamp", FIRST_DAY.isoformat(), "--end_timestamp", end.isoformat()]
    with tempfile.TemporaryDirectory() as folder:
        universes = Path(folder) / "universes"
        release_universe(Universe.of("v0.1", {market: _symbols(server, market)}), universes)
        configured = Settings(
            home=Path(folder), universes=universes, universe="v0.1", exchange_url=server.url, weight_share=1.0
        )
        before, started_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(
            line, env={**os.environ, **configured.environment()}, stdout=subprocess.PIPE, text=True, check=True
        )
        taken_s, after = time.monotonic() - started_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    stored = json.loads(done.stdout.splitlines()[-1])["stored"]
    return Row(market, f"{shape.name}, limits off", "download-bulk", stored, taken_s, cpu_s)


def _symbols(server: ReplayServer, market: Market) -> list[str]:
    async def listed() -> list[str]:
        async with open_exchange(market, Settings(exchange_url=server.url)) as exchange:
            return [str(symbol) for symbol in exchange.listing]

    return asyncio.run(listed())


async def _case(
    *, client: str, market: str, url: str, days: int, symbols: int, limited: bool, minutes: int
) -> dict[str, Any]:
    """One client's work, in its own process."""
    interval = Shape("", symbols, days).interval
    if client == "ccxt":
        return await _ccxt(Market(market), url, interval, limited=limited)
    window = Interval(interval.start_ms, interval.start_ms + 10 * MINUTE_MS) if client == "windows" else interval
    return await _ours(Market(market), url, window, limited=limited, minutes=minutes)


async def _ours(market: Market, url: str, interval: Interval, *, limited: bool, minutes: int) -> dict[str, Any]:
    settings = Settings(exchange_url=url) if limited else Settings(exchange_url=url, weight_share=1.0)
    async with open_exchange(market, settings) as exchange:
        symbols = sorted(exchange.listing)
        if not limited:
            started_s, cpu_s = time.monotonic(), time.process_time()
            fetched = await fetch_bars(exchange, symbols, interval, concurrency=REQUESTS_AT_ONCE)
            return _numbers(fetched.bars.height, started_s, cpu_s)
        # Whole clock minutes: from the next one on. What is under way at the end is let go.
        first = floor_to(exchange.clock.now_ms(), MINUTE_MS) + MINUTE_MS
        last = first + minutes * MINUTE_MS
        seen = _Seen(first, last)

        async def again() -> None:
            while True:
                base = seen.bars

                def tell(bars: int, _all: int, base: int = base) -> None:
                    seen.tell(exchange.clock.now_ms(), base + bars)

                await fetch_bars(exchange, symbols, interval, concurrency=REQUESTS_AT_ONCE, on_progress=tell)

        work = asyncio.create_task(again())
        await exchange.clock.sleep((last - exchange.clock.now_ms()) / 1000)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        return {**seen.numbers(), "full_minutes": list(range(first, last, MINUTE_MS))}


class _Seen:
    """Bars and CPU between two moments of the exchange's clock."""

    def __init__(self, first_ms: int, last_ms: int) -> None:
        self.bars = 0
        self._first_ms, self._last_ms = first_ms, last_ms
        self._began: tuple[int, float] | None = None
        self._ended = (0, 0.0)

    def tell(self, now_ms: int, bars: int) -> None:
        """So many bars by now."""
        if now_ms >= self._first_ms and self._began is None:
            self._began = self.bars, time.process_time()
        if now_ms < self._last_ms:
            self._ended = bars, time.process_time()
        self.bars = bars

    def numbers(self) -> dict[str, Any]:
        """What there was in between."""
        began = self._began or (0, 0.0)
        taken_s = (self._last_ms - self._first_ms) / 1000
        return {"bars": self._ended[0] - began[0], "taken_s": taken_s, "cpu_s": self._ended[1] - began[1]}


async def _ccxt(market: Market, url: str, interval: Interval, *, limited: bool) -> dict[str, Any]:
    """The loop that ccxt's users write: `fetch_ohlcv` page by page, symbols side by side."""
    import ccxt.async_support

    config = ccxt_config(market, url) | {"enableRateLimit": limited}
    del config["number"]  # floats, as it gives them by default
    client = ccxt.async_support.binance(config)
    try:
        await client.load_markets()
        symbols = sorted(client.symbols)
        bars, limit = 0, PAGE_MINUTES[market]
        started_s, cpu_s = time.monotonic(), time.process_time()

        def over() -> bool:
            return limited and time.monotonic() - started_s > _CCXT_LIMITED_S

        async def one(symbol: str, page: Interval) -> None:
            nonlocal bars
            if not over():
                rows = await client.fetch_ohlcv(symbol, "1m", page.start_ms, limit, {"until": page.end_ms - 1})
                bars += len(rows)

        pages = list(_pages(market, symbols, interval))
        await in_parallel((one(symbol, page) for symbol, page in pages), REQUESTS_AT_ONCE)
        return {**_numbers(bars, started_s, cpu_s), **({"full_minutes": []} if limited else {})}
    finally:
        await client.close()


def _pages(market: Market, symbols: Iterable[str], interval: Interval) -> Iterator[tuple[str, Interval]]:
    for symbol in symbols:
        for page in interval.split(PAGE_MINUTES[market] * MINUTE_MS):
            yield symbol, page


def _numbers(bars: int, started_s: float, cpu_s: float) -> dict[str, Any]:
    return {"bars": bars, "taken_s": time.monotonic() - started_s, "cpu_s": time.process_time() - cpu_s}


def markdown(rows: list[Row]) -> Iterator[str]:
    """The table; `x ccxt` is the throughput by ccxt's in the same case."""
    yield "| market | case | client | bars | s | bars/s | x ccxt | CPU us/bar | weight used of the limit | 429 |"
    yield "|---|---|---|---:|---:|---:|---:|---:|---:|---:|"
    ccxt = {(row.market, row.case): row.bars_a_second for row in rows if row.client == "ccxt"}
    for row in sorted(rows, key=lambda row: (row.market, row.case)):
        base = ccxt.get((row.market, row.case))
        times = f"{row.bars_a_second / base:.2f}" if base else "-"
        weight = "-" if row.weight_pct is None else f"{row.weight_pct:.1f} %"
        refused = "-" if row.refused is None else str(row.refused)
        yield (
            f"| {row.market} | {row.case} | {row.client} | {row.bars:,} | {row.taken_s:.1f} | {row.bars_a_second:,.0f} "
            f"| {times} | {1e6 * row.cpu_s / row.bars:.2f} | {weight} | {refused} |"
        )


if __name__ == "__main__":
    main()
