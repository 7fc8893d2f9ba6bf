"""Who listens to what: connections, and the streams that each has subscribed to.

Lives here: `Connection`, an outgoing queue of one WebSocket, and `Hub`, one market's subscriptions. Does not: the
protocol of the requests (websocket.py), or what is sent and when (pump.py). A queue keeps a slow reader from
delaying the others; one that is too far behind is cut off, as Binance does. A fault puts a `Gate` on a connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from aiohttp import web

from ohlcv_assets.instruments import Market
from ohlcv_assets.replay import tcp

MOST_WAITING = 20_000


class Gate(Protocol):
    """What stands between the events and a connection while a fault lasts."""

    def takes(self, stream: str, text: str) -> bool:
        """Whether the event is withheld; called for each in its order."""


class Connection:
    """One client's WebSocket: what waits to be sent, and what it is subscribed to.

    Args:
        socket: the socket, already open.
        market: whose events it carries.
        opened_ms: when it was opened, on the exchange's clock.
        transport: what carries it, so that it can be cut without a goodbye.
        combined: whether events are wrapped as {"stream": ..., "data": ...}.
        hub: where its subscriptions count; None on a path where every subscription is acked and stays silent.
    """

    def __init__(
        self,
        socket: web.WebSocketResponse,
        transport: asyncio.Transport | None,
        *,
        market: Market,
        opened_ms: int,
        combined: bool,
        hub: Hub | None,
    ) -> None:
        self.socket = socket
        self.market = market
        self.opened_ms = opened_ms
        self._transport = transport
        self.combined = combined
        self.hub = hub
        self.streams: dict[str, None] = {}  # in the order of subscription
        self._waiting: deque[str] = deque()
        self._filled = asyncio.Event()
        self.gates: dict[int, Gate] = {}  # by the rule that put it here
        self._frozen_by: set[int] = set()
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.farewell: tuple[int, bytes] | None = None
        self.reading: asyncio.Task[None] | None = None

    def deliver(self, stream: str, text: str) -> None:
        """Send an event, unless a gate takes it."""
        if self.gates and any(gate.takes(stream, text) for gate in self.gates.values()):
            return
        if self._frozen_by and len(self._waiting) > MOST_WAITING:
            self.cut()  # nobody will ever read that much
        self.push(text)

    def push(self, text: str) -> None:
        """Send a text message, after those that wait."""
        self._waiting.append(text)
        self._filled.set()

    def cut(self) -> None:
        """Break the connection as a failing network does: with a TCP reset."""
        tcp.reset(self._transport)

    def hang_up(self, code: int, reason: bytes = b"") -> None:
        """Close the connection in good order: the close frame, then the client's own, then the end."""
        if self.farewell is None and self.reading is not None:
            self.farewell = code, reason
            # Closed while somebody reads, aiohttp would cut the connection without waiting for the client's frame.
            self.reading.cancel()

    def freeze(self, rule: int) -> None:
        """Neither read nor write from now on, not even a ping or a pong; the socket stays open."""
        if self._transport is not None and not self._transport.is_closing():
            self._frozen_by.add(rule)
            self.thawed.clear()
            self._transport.pause_reading()

    def thaw(self, rule: int) -> None:
        """Read and write again, unless another rule still forbids it."""
        self._frozen_by.discard(rule)
        if not self._frozen_by and not self.thawed.is_set():
            self.thawed.set()
            self._filled.set()
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    async def write_until_closed(self) -> None:
        """Send what waits, for as long as the socket is open."""
        while not self.socket.closed:
            await self._filled.wait()
            self._filled.clear()
            await self.thawed.wait()
            if len(self._waiting) > MOST_WAITING:
                await self.socket.close(code=1008, message=b"Slow consumer")
                return
            while self._waiting and self.thawed.is_set():
                await self.socket.send_str(self._waiting.popleft())

    def subscribe(self, streams: Iterable[str], lost: Collection[str] = ()) -> None:
        """Listen to these streams too; to those that are `lost` in name only."""
        for stream in streams:
            self.streams[stream] = None
            if self.hub is not None and stream not in lost:
                self.hub.add(stream, self)

    def lose(self, stream: str) -> bool:
        """Hear nothing of a stream any more, though it stays subscribed; whether it was heard before."""
        return self.hub is not None and self.hub.remove(stream, self)

    def unsubscribe(self, streams: Iterable[str]) -> None:
        """Listen to these streams no longer."""
        for stream in list(streams):
            self.streams.pop(stream, None)
            if self.hub is not None:
                self.hub.remove(stream, self)


class Hub:
    """One market's subscriptions: for each stream that exists, who listens.

    Args:
        known: the streams that exist; others may be subscribed to and never deliver.
        on_first: called with a stream when its first listener comes.
    """

    def __init__(self, known: Iterable[str], on_first: Callable[[str], None]) -> None:
        self._listeners: dict[str, dict[Connection, None]] = {stream: {} for stream in known}
        self._on_first = on_first

    def add(self, stream: str, connection: Connection) -> None:
        """Let a connection listen to a stream; without effect for a stream that does not exist."""
        listeners = self._listeners.get(stream)
        if listeners is None:
            return
        listeners[connection] = None
        if len(listeners) == 1:
            self._on_first(stream)

    def remove(self, stream: str, connection: Connection) -> bool:
        """Let a connection no longer listen to a stream; whether it did."""
        listeners = self._listeners.get(stream, {})
        listened = connection in listeners
        listeners.pop(connection, None)
        return listened

    def heard(self, stream: str) -> bool:
        """Whether anyone listens."""
        return bool(self._listeners[stream])

    def publish(self, stream: str, event: str) -> None:
        """Send an event to everyone who listens, in the form that each connection speaks."""
        wrapped: str | None = None
        for connection in self._listeners[stream]:
            if connection.combined:
                wrapped = wrapped or f'{{"stream":"{stream}","data":{event}}}'
                connection.deliver(stream, wrapped)
            else:
                connection.deliver(stream, event)
