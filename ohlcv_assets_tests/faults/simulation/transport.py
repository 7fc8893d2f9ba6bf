"""What stands for the network: aiohttp's session as ccxt uses it, and nothing above it.

Lives here: `Session`, which answers GET requests and opens WebSockets on the simulated exchange, with every fault of a
network. Does not: what the exchange knows (world.py). Addresses, parameters, headers, bodies and frames are the real
ones: what comes here was made by ccxt, and what goes back is read by ccxt.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import aiohttp

from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.weights import futures_klines_weight
from ohlcv_assets_tests.faults.simulation.faults import LIES, REST_FAULTS
from ohlcv_assets_tests.faults.simulation.loop import PROCESS, Process
from ohlcv_assets_tests.faults.simulation.world import World

_JSON = {"Content-Type": "application/json;charset=UTF-8"}
_HTML = "<html><head><title>502 Bad Gateway</title></head><body></body></html>"
_LATENCY_S = (0.005, 0.12)


class _Answered(NamedTuple):
    status: int
    body: str
    headers: Mapping[str, str]


class Response:
    """An answer as aiohttp gives it."""

    def __init__(self, answered: _Answered, broken: bool) -> None:
        self.status, self.reason = answered.status, "OK" if answered.status == 200 else "Fault"
        self.headers = {**_JSON, **answered.headers}
        self.content = b""
        self._body, self._broken = answered.body, broken

    async def text(self, errors: str = "strict") -> str:
        """The body; raises when the connection broke in the middle of it."""
        if self._broken:
            raise aiohttp.ClientPayloadError("Response payload is not completed")
        return self._body


class _Later:
    """`async with` of something that takes a while."""

    def __init__(self, begin: Callable[[], Awaitable[Any]]) -> None:
        self._begin = begin

    async def __aenter__(self) -> Any:
        return await self._begin()

    async def __aexit__(self, *_: object) -> None:
        return None


class Session:
    """One process's way to the exchange.

    Args:
        world: the exchange.
    """

    def __init__(self, world: World) -> None:
        self.closed = False
        self.headers: dict[str, str] = {}
        self._world = world
        self._process = PROCESS.get()

    def get(self, url: object, *, timeout: aiohttp.ClientTimeout, **_: object) -> _Later:
        """A REST request."""
        return _Later(lambda: self._ask(str(url), timeout.total or 10.0))

    def ws_connect(self, url: str, **_: object) -> _Later:
        """A WebSocket."""
        return _Later(lambda: self._connect(url))

    async def close(self) -> None:
        """Nothing is kept open by a session itself."""
        self.closed = True

    async def _ask(self, url: str, timeout_s: float) -> Response:
        world, latency_s = self._world, self._world.chance.uniform(*_LATENCY_S)
        world.asked(world.now_s)
        await asyncio.sleep(latency_s / 2)
        refuse_the_dead(self._process)
        parts = urlsplit(url)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        fault = next((kind for kind in REST_FAULTS if world.window(kind)), None)
        answered = self._answer(parts.path, query, fault)
        name = self._process.name if self._process else "?"
        world.note(name, "GET", parts.path, sorted(query.items()), fault, answered.status, len(answered.body))
        if fault == "rest_timeout":
            await asyncio.sleep(timeout_s)
            raise TimeoutError
        await asyncio.sleep(latency_s / 2)
        if "Retry-After" in answered.headers:
            world.stop_until(world.now_s + float(answered.headers["Retry-After"]))
        if fault == "rest_reset":
            raise aiohttp.ServerDisconnectedError
        return Response(answered, broken=fault == "rest_truncated" and world.chance.random() < 0.5)

    def _answer(self, path: str, query: Mapping[str, str], fault: str | None) -> _Answered:
        world = self._world
        weight = self._weight(path, query)
        verdict = world.pool.charge(weight, world.now_ms)
        headers = {"X-MBX-USED-WEIGHT-1M": str(verdict.used)}
        if verdict.status != 200:
            world.inject("budget_exceeded", verdict.status)
            return _refusal(verdict.status, verdict.retry_after_s, headers)
        if fault is not None and fault not in LIES:
            world.inject(fault, path)
            return self._faulty(fault, self._body(path, query, None), headers)
        return _Answered(200, self._body(path, query, fault), headers)

    def _weight(self, path: str, query: Mapping[str, str]) -> int:
        if path.endswith("exchangeInfo"):
            return 20 if self._world.plan.market is Market.SPOT else 1
        return 2 if self._world.plan.market is Market.SPOT else futures_klines_weight(int(query["limit"]))

    def _body(self, path: str, query: Mapping[str, str], lie: str | None) -> str:
        if path.endswith("/exchangeInfo"):
            return json.dumps(self._world.listing())
        if not path.endswith("/klines") or query["interval"] != "1m":
            raise AssertionError(f"nobody asks for {path} {query}")
        first_ms, last_ms, limit = (int(query[name]) for name in ("startTime", "endTime", "limit"))
        return self._world.page(query["symbol"], first_ms, last_ms, limit, lie)

    def _faulty(self, fault: str, body: str, headers: Mapping[str, str]) -> _Answered:
        chance = self._world.chance
        if fault in ("rest_429", "rest_418"):
            return _refusal(int(fault[-3:]), chance.randint(1, 60), headers)
        html = {**headers, "Content-Type": "text/html"}
        return {
            "rest_5xx": lambda: _Answered(chance.choice((500, 502, 503, 504)), _HTML, html),
            "rest_403": lambda: _Answered(403, _HTML, html),
            "rest_truncated": lambda: _Answered(200, body[: chance.randrange(max(1, len(body)))], headers),
            "rest_html": lambda: _Answered(200, _HTML, html),
            "rest_empty": lambda: _Answered(200, "", headers),
            "rest_null": lambda: _Answered(200, "null", headers),
            "rest_garbage": lambda: _Answered(200, chance.choice(_GARBAGE), headers),
            "rest_error_code": lambda: _error(chance.choice((-1001, -1003, -1008)), chance.choice((400, 503, 200)), headers),
        }.get(fault, lambda: _Answered(200, body, headers))()  # fmt: skip

    async def _connect(self, url: str) -> "Connection":
        world = self._world
        await asyncio.sleep(world.chance.uniform(*_LATENCY_S))
        refuse_the_dead(self._process)
        if world.window("ws_refuse"):
            world.inject("ws_refuse", url)
            raise aiohttp.ClientConnectionError("refused")
        if world.plan.market is Market.FUTURES and "/fstream/market/" not in url:
            raise AssertionError(f"the exchange sends nothing at {url}")
        return Connection(world, self._process, world.chance.uniform(*_LATENCY_S))


class Connection:
    """A WebSocket: aiohttp's side of it for ccxt, and the exchange's side for the world.

    Args:
        world: the exchange.
        process: whose connection it is.
        latency_s: how long each frame is under way.
    """

    #: ccxt looks here for frames that aiohttp has buffered.
    _conn = None

    def __init__(self, world: World, process: Process | None, latency_s: float) -> None:
        self.streams: set[str] = set()
        self.closed = False
        self._world, self._process, self._latency_s = world, process, latency_s
        self._inbox: asyncio.Queue[aiohttp.WSMessage] = asyncio.Queue()
        self._dark = False
        self._stalled_until_s = 0.0
        world.listeners.append(self)
        world.note(process.name if process else "?", "connected")

    # The client's side ------------------------------------------------------------------------------------------

    async def receive(self) -> aiohttp.WSMessage:
        """The next frame; `CLOSED` once the connection is gone."""
        message = await self._inbox.get()
        if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED):
            self.closed = True
        return message

    async def send_str(self, text: str) -> None:
        """A frame to the exchange."""
        if len(text) > 4_096:
            return  # so does the exchange, without a word
        request = json.loads(text)
        if request["method"] != "SUBSCRIBE":
            raise AssertionError(f"nobody sends {text}")
        kept = []
        for stream in request["params"]:
            if self._world.window("ws_drop_subscription"):
                self._world.inject("ws_drop_subscription", stream)
            else:
                kept.append(stream)
        self._world.loop.call_later(self._latency_s, self.streams.update, kept)
        self.send(json.dumps({"result": None, "id": request["id"]}))

    async def ping(self, message: bytes = b"") -> None:
        """A ping, which a living exchange answers."""
        self._deliver(aiohttp.WSMessage(aiohttp.WSMsgType.PONG, message, None))

    async def pong(self, message: bytes = b"") -> None:
        """An answer to the exchange's ping."""

    async def close(self) -> None:
        """Hang up; a peer that is dark never answers, and is waited for as aiohttp does."""
        self._leave()
        if self._dark and not self.closed:
            self.closed = True
            await asyncio.sleep(10.0)
        self.closed = True
        self._inbox.put_nowait(aiohttp.WSMessage(aiohttp.WSMsgType.CLOSED, None, None))

    # The exchange's side ----------------------------------------------------------------------------------------

    def send(self, text: str) -> None:
        """Send a frame, unless the connection is silent or stalls."""
        if self._world.window("ws_silent") and '"stream"' in text:
            self._world.inject("ws_silent")
            return
        stall = self._world.window("ws_stall")
        if stall is not None:
            self._world.inject("ws_stall")
            self._stalled_until_s = stall.end_s
        self._deliver(aiohttp.WSMessage(aiohttp.WSMsgType.TEXT, text, None))

    def hang_up(self, *, cleanly: bool) -> None:
        """Close the connection with a frame, or reset it."""
        self._leave()
        kind = aiohttp.WSMsgType.CLOSE if cleanly else aiohttp.WSMsgType.CLOSED
        self._deliver(aiohttp.WSMessage(kind, 1001 if cleanly else None, None))

    def go_dark(self) -> None:
        """Leave the socket open, and never say or hear anything again."""
        self._leave()
        self._dark = True

    def _leave(self) -> None:
        if self in self._world.listeners:
            self._world.listeners.remove(self)

    def _deliver(self, message: aiohttp.WSMessage) -> None:
        if not self._dark:
            wait_s = max(self._latency_s, self._stalled_until_s - self._world.now_s + self._latency_s)
            self._world.loop.call_later(wait_s, self._arrive, message)

    def _arrive(self, message: aiohttp.WSMessage) -> None:
        if self._process is None or self._process.alive:
            self._inbox.put_nowait(message)
        else:
            self._leave()


def refuse_the_dead(process: Process | None) -> None:
    """A process that was killed reaches nothing any more: it is only cleaned up."""
    if process is not None and process.cut_off:
        raise aiohttp.ClientConnectionError("this process is dead")


def _refusal(status: int, retry_after_s: int, headers: Mapping[str, str]) -> _Answered:
    return _error(-1003, status, {**headers, "Retry-After": str(retry_after_s)})


def _error(code: int, status: int, headers: Mapping[str, str]) -> _Answered:
    return _Answered(status, json.dumps({"code": code, "msg": "a fault"}), headers)


_GARBAGE = (
    "{}",
    "[[]]",
    '[["a","b"]]',
    '[[1,"1","1","1","1","1",2,"1",1,"1","1","0"]]',
    "[[1748736000000,1.0,1.0,1.0,1.0,1.0,1748736059999,1.0,1,1.0,1.0,0]]",
    '"maintenance"',
)
