"""`ohlcv replay`: serve a local exchange that speaks Binance's protocol.

Lives here: the command's options and what they mean together. Does not: the exchange (replay/).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ohlcv_assets.cli.completion import complete_market

if TYPE_CHECKING:
    from ohlcv_assets.replay.truth import Truth

_Data = Annotated[Path | None, typer.Option("--data", help="Parquet file of one-minute bars.", show_default=False)]
_Market = Annotated[
    str | None,
    typer.Option(
        help="Market of the bars in --data: spot or futures.", show_default=False, autocompletion=complete_market
    ),
]
_Generate = Annotated[bool, typer.Option("--generate", help="Make up a market instead of reading one.")]
_Faults = Annotated[
    Path | None, typer.Option("--faults", help="YAML or JSON file of what goes wrong when.", show_default=False)
]
_Start = Annotated[str | None, typer.Option(help="What the clock shows first; default: the start of the data.")]


def replay(
    data: _Data = None,
    market: _Market = None,
    generate: _Generate = False,
    symbols: Annotated[int, typer.Option(help="Symbols to generate in each market.")] = 20,
    days: Annotated[int, typer.Option(help="UTC days to generate.")] = 2,
    first_day: Annotated[str, typer.Option(help="First UTC day to generate.")] = "2025-06-01",
    seed: Annotated[
        int,
        typer.Option(help="Decides the generated bars, how late each closing event is, and each draw of a fault."),
    ] = 7,
    faults: _Faults = None,
    start: _Start = None,
    speed: Annotated[float, typer.Option(help="Exchange seconds per second, 1 to 600.")] = 1.0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")] = 8900,
) -> None:
    """Serve a local exchange that speaks Binance's REST and WebSocket protocol, until Ctrl-C.

    Either from recorded bars (--data FILE --market futures) or from a made-up market (--generate). Point the capture code at it with
    OHLCV_EXCHANGE_URL.

    \b
    Examples:
      ohlcv replay --generate --symbols 50 --days 3 --speed 60
      ohlcv replay --data bars.parquet --market futures --start 2025-06-01T12:00Z

    Exit code: 0 ended by Ctrl-C; 2 the question cannot be meant, or the port is taken.
    """  # noqa: D301  the backspace keeps the lines of the examples apart
    from ohlcv_assets.replay.faults.rules import read_rules
    from ohlcv_assets.replay.faults.script import FaultScript
    from ohlcv_assets.replay.server import Listening, ReplayExchange, serve
    from ohlcv_assets.timestamps import parse_time

    def announce(listening: Listening) -> None:
        print(f"replay exchange listening on {listening.url} ({listening.summary})", flush=True)

    exchange = ReplayExchange(
        _truth(data, market, generate=generate, symbols=symbols, days=days, first_day=first_day, seed=seed),
        start_ms=None if start is None else parse_time(start),
        speed=speed,
        script=FaultScript(seed, [] if faults is None else read_rules(faults)),
    )
    serve(exchange, host=host, port=port, on_listening=announce)


def _truth(
    data: Path | None, market: str | None, *, generate: bool, symbols: int, days: int, first_day: str, seed: int
) -> Truth:
    """The bars that the options ask for."""
    from ohlcv_assets.errors import UsageError
    from ohlcv_assets.instruments import Market
    from ohlcv_assets.replay.truth import generate_truth, load_truth
    from ohlcv_assets.timestamps import from_ms, parse_time

    if generate == (data is not None):
        raise UsageError(
            "nothing says which bars to play"
            if data is None
            else "both --data and --generate say which bars to play",
            hint="give --data FILE --market futures, or --generate",
        )
    if data is None:
        return generate_truth(symbols=symbols, days=days, seed=seed, first_day=from_ms(parse_time(first_day)).date())
    if market is None:
        raise UsageError(f"nothing says which market {data} is of", hint="add --market spot or --market futures")
    return load_truth(data, Market.parse(market))
