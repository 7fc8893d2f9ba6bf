"""The replay exchange as one server: REST, WebSocket and control on one host and port, until it is told to stop.

Lives here: putting the parts together, listening, and stopping at once on SIGTERM or SIGINT, open sockets or not. Does
not: reading the truth (truth.py) or any option of a command line (cli/replay.py).
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from ohlcv_assets.errors import UsageError
from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.clock import ReplayClock
from ohlcv_assets.replay.control import FASTEST, Control
from ohlcv_assets.replay.faults.control import FaultControl
from ohlcv_assets.replay.faults.script import FaultScript
from ohlcv_assets.replay.pump import Pump
from ohlcv_assets.replay.rest import RestApi
from ohlcv_assets.replay.script import Script
from ohlcv_assets.replay.tape import MarketTape
from ohlcv_assets.replay.truth import Truth
from ohlcv_assets.replay.websocket import Rules, StreamApi
from ohlcv_assets.timestamps import floor_to, iso


@dataclass(frozen=True)
class Listening:
    """Where a replay exchange listens and what it plays."""

    url: str
    summary: str


class ReplayExchange:
    """An exchange that plays a truth.

    Args:
        truth: the final bars of each market.
        start_ms: what its clock shows when it begins to listen; the start of the data by default.
        speed: exchange seconds per wall second, 1 to 600.
        script: what may go wrong; by default nothing, until rules are added over HTTP.
        rules: what each market demands of a connection; Binance's own by default.

    Raises:
        UsageError: the speed or the start cannot be played.
    """

    def __init__(
        self,
        truth: Truth,
        *,
        start_ms: int | None = None,
        speed: float = 1.0,
        script: Script | None = None,
        rules: Mapping[Market, Rules] | None = None,
    ) -> None:
        self.tapes = {market: MarketTape(market, truth[market]) for market in Market}
        self.clock = ReplayClock(_checked_start(self.tapes, start_ms), _checked_speed(speed))
        script = script or FaultScript(seed=0)
        self.rest = RestApi(self.tapes, self.clock, script)
        self._pumps = {market: Pump(tape, self.clock, script) for market, tape in self.tapes.items()}
        self.streams = StreamApi(
            {market: pump.hub for market, pump in self._pumps.items()}, self.clock, script, rules
        )
        self.control = Control(self.clock, self.rest, self.streams, self.tapes)
        self._faults = script if isinstance(script, FaultScript) else None
        if self._faults is not None:
            self._faults.play(truth, self.tapes, self.clock, self.streams.connections)
        self._runner: web.AppRunner | None = None

    async def listen(self, host: str, port: int) -> Listening:
        """Begin to listen, on a free port for 0; the clock starts now.

        Raises:
            UsageError: the port cannot be had.
        """
        app = web.Application()
        for part in (self.rest, self.streams, self.control):
            part.add_routes(app)
        if self._faults is not None:
            FaultControl(self._faults).add_routes(app)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise UsageError(
                f"cannot listen on {host}:{port}: {error.strerror}", hint="choose another --port, or 0 for a free one"
            ) from error
        self.clock.restart()
        if self._faults is not None:
            self._faults.start()
        for pump in self._pumps.values():
            pump.start()
        return Listening(f"http://{host}:{self._runner.addresses[0][1]}", self._summary())

    async def close(self) -> None:
        """Stop at once: open connections are cut."""
        for pump in self._pumps.values():
            pump.stop()
        if self._faults is not None:
            self._faults.stop()
        self.streams.abort()
        if self._runner is not None:
            await self._runner.cleanup()

    def _summary(self) -> str:
        counts = ", ".join(f"{market} {len(tape.symbols)} symbols" for market, tape in self.tapes.items())
        return f"{counts}; clock {iso(floor_to(self.clock.now_ms(), 1000))} at {self.clock.speed:g}x"


def serve(exchange: ReplayExchange, *, host: str, port: int, on_listening: Callable[[Listening], None]) -> None:
    """Serve until SIGTERM or SIGINT, and return.

    Args:
        exchange: what to serve.
        host: the address to bind.
        port: the port, 0 for a free one.
        on_listening: called once, when requests are answered.
    """
    asyncio.run(_serve(exchange, host, port, on_listening))


async def _serve(exchange: ReplayExchange, host: str, port: int, on_listening: Callable[[Listening], None]) -> None:
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    on_listening(await exchange.listen(host, port))
    await stop.wait()
    await exchange.close()


def _checked_speed(speed: float) -> float:
    if not 1 <= speed <= FASTEST:
        raise UsageError(f"a speed of {speed:g} cannot be played", hint=f"choose a --speed from 1 to {FASTEST:g}")
    return speed


def _checked_start(tapes: Mapping[Market, MarketTape], start_ms: int | None) -> int:
    held = [tape for tape in tapes.values() if tape.symbols]
    if not held:
        raise UsageError("there are no bars to play", hint="give --data FILE or --generate")
    first_ms, end_ms = min(tape.start_ms for tape in held), max(tape.end_ms for tape in held)
    if start_ms is None:
        return first_ms
    if start_ms >= end_ms:
        raise UsageError(
            f"the data end at {iso(end_ms)}, before the start {iso(start_ms)}",
            hint=f"choose a --start from {iso(first_ms)} on, before that end",
        )
    return start_ms
