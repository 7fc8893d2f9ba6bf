"""The numbers of a running stream for Prometheus, over HTTP on this machine.

Lives here: the text form of `StreamStatus` and the handler that serves it at `/metrics`. Does not: the numbers
(stream_status.py). Nothing here may end a capture: a port that is taken is logged, and the stream goes on without it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ohlcv_assets.exchange.stream_report import Percentiles
from ohlcv_assets.exchange.stream_status import StreamStatus
from ohlcv_assets.logs import get_logger

if TYPE_CHECKING:
    from aiohttp import web

Status = Callable[[], StreamStatus]

_HOST = "127.0.0.1"
_log = get_logger()


@asynccontextmanager
async def serving_metrics(port: int | None) -> AsyncIterator[Callable[[Status], None]]:
    """Serve metrics on that port while the block runs; yields where to put the stream that is told about.

    Args:
        port: 0 takes a free one, which is logged; None serves nothing.
    """
    streams: list[Status] = []
    if port is None:
        yield streams.append
        return
    from aiohttp import web

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text="".join(exposition(status()) for status in streams[-1:]))

    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await _listen(runner, port)
    try:
        yield streams.append
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, port: int) -> None:
    from aiohttp import web

    try:
        await web.TCPSite(runner, _HOST, port).start()
    except OSError as error:
        _log.warning("no metrics: the port is taken", port=port, error=str(error))
        return
    _log.info("metrics", url=f"http://{_HOST}:{runner.addresses[0][1]}/metrics")


def exposition(status: StreamStatus) -> str:
    """The status in Prometheus's text form; every line ends with a newline."""
    market = status.market.value
    lines = [
        line for name, kind, text, values in _metrics(status) for line in _lines(market, name, kind, text, values)
    ]
    return "\n".join(lines) + "\n"


def _lines(market: str, name: str, kind: str, text: str, values: dict[str, float]) -> Iterator[str]:
    yield f"# HELP ohlcv_{name} {text}"
    yield f"# TYPE ohlcv_{name} {kind}"
    for labels, value in values.items():
        yield f'ohlcv_{name}{{market="{market}"{labels}}} {value!r}'


def _metrics(status: StreamStatus) -> Iterator[tuple[str, str, str, dict[str, float]]]:
    """Name, kind, help, and the values by further labels."""
    yield "bars_due", "gauge", "Bars whose minute is over.", {"": status.bars_due}
    yield "bars_present", "gauge", "Bars due that are stored.", {"": status.bars_present}
    yield "bars_spooled", "gauge", "Bars on disk that wait for the database.", {"": status.bars_spooled}
    yield "bars_missing", "gauge", "Bars that are named missing.", {"": status.bars_missing}
    by_channel = {f',channel="{channel}"': float(bars) for channel, bars in status.by_channel.items()}
    yield "bars_captured_total", "counter", "Bars that this run stored, by how they came.", by_channel
    yield "reconnects_total", "counter", "Lost WebSocket connections.", {"": status.reconnects}
    yield "hand_overs_total", "counter", "Planned changes of the WebSocket connection.", {"": status.hand_overs}
    yield "rest_repairs_total", "counter", "Bars by REST that had not come in time.", {"": status.rest_repairs}
    yield "request_weight_total", "counter", "Request weight used.", {"": status.weight_used}
    yield "latency_seconds", "gauge", "From a bar's end to its commit.", _quantiles(status.latency_s, 1.0)
    yield "event_to_commit_seconds", "gauge", "From an event's arrival to its commit.", _quantiles(status.event_to_commit_ms, 1e-3)  # fmt: skip
    yield "exchange_time_seconds", "gauge", "The exchange's clock.", {"": status.now_ms / 1000}


def _quantiles(found: Percentiles, unit_s: float) -> dict[str, float]:
    values = {"0.5": found.p50, "0.95": found.p95, "0.99": found.p99, "1": found.max}
    return {f',quantile="{name}"': value * unit_s for name, value in values.items() if value is not None}
