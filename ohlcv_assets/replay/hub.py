"""Who listens to what: connections, and the streams that each has subscribed to.

Lives here: `Connection`, an outgoing queue of one WebSocket, and `Hub`, one market's subscriptions. Does not: the
protocol of the requests (websocket.py), or what is sent and when (pump.py). A queue keeps a slow reader from
delaying the others; one that is too far behind is cut off, as Binance does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from aiohttp import web

MOST_WAITING = 20_000


class Connection:
    """One client's WebSocket: what waits to be sent, and what it is subscribed to.

    Args:
        socket: the socket, already open.
        transport: what carries it, so that it can be cut without a goodbye.
        combined: whether events are wrapped as {"stream": ..., "data": ...}.
        hub: where its subscriptions count; None on a path where every subscription is acked and stays silent.
    """

    def __init__(
        self, socket: web.WebSocketResponse, transport: asyncio.Transport | None, *, combined: bool, hub: Hub | None
    ) -> None:
        self.socket = socket
        self._transport = transport
        self.combined = combined
        self.hub = hub
        self.streams: dict[str, None] = {}  # in the order of subscription
        self._waiting: deque[str] = deque()
        self._filled = asyncio.Event()

    def push(self, text: str) -> None:
        """Send a text message, after those that wait."""
        self._waiting.append(text)
        self._filled.set()

    def cut(self) -> None:
        """Break the connection as a failing network does."""
        if self._transport is not None:
            self._transport.abort()

    async def write_until_closed(self) -> None:
        """Send what waits, for as long as the socket is open."""
        while not self.socket.closed:
            await self._filled.wait()
            self._filled.clear()
            if len(self._waiting) > MOST_WAITING:
                await self.socket.close(code=1008, message=b"Slow consumer")
                return
            while self._waiting:
                await self.socket.send_str(self._waiting.popleft())

    def subscribe(self, streams: Iterable[str]) -> None:
        """Listen to these streams too."""
        for stream in streams:
            self.streams[stream] = None
            if self.hub is not None:
                self.hub.add(stream, self)

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

    def remove(self, stream: str, connection: Connection) -> None:
        """Let a connection no longer listen to a stream."""
        self._listeners.get(stream, {}).pop(connection, None)

    def heard(self, stream: str) -> bool:
        """Whether anyone listens."""
        return bool(self._listeners[stream])

    def publish(self, stream: str, event: str) -> None:
        """Send an event to everyone who listens, in the form that each connection speaks."""
        wrapped: str | None = None
        for connection in self._listeners[stream]:
            if connection.combined:
                wrapped = wrapped or f'{{"stream":"{stream}","data":{event}}}'
                connection.push(wrapped)
            else:
                connection.push(event)
