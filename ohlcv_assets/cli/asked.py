"""What people type, made into what the package means: universes, markets, days, hours; and what they get back as JSON.

Lives here: the meaning of options that several commands have, so that each is refused by one and the same error. Does not:
times with a zone (timestamps.py) or symbols (instruments.py, client).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ohlcv_assets.cli.completion import complete_market, complete_universe

if TYPE_CHECKING:
    from ohlcv_assets.instruments import Market, Universe
    from ohlcv_assets.settings import Settings
    from ohlcv_assets.timestamps import Interval

#: The same option in every command that has it.
MarketOption = Annotated[
    str, typer.Option(help="spot or futures.", show_default=False, autocompletion=complete_market)
]
DayOption = Annotated[str, typer.Option(help="UTC day, such as 2025-06-01.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON, for machines.")]
UniverseOption = Annotated[
    str | None,
    typer.Option(
        help="Version of the universe; default: OHLCV_UNIVERSE.", show_default=False, autocompletion=complete_universe
    ),
]

#: How an hour is named: 2025-06-01T05, or as Dagster names its partition, 2025-06-01-05:00.
_HOUR = re.compile(r"(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})[T-](?P<hour>[0-9]{2})(?::00)?")


def universe_of(configured: Settings, version: str | None, market: Market) -> Universe:
    """The universe that is meant, which has symbols of the market.

    Raises:
        UsageError: it has none of them: of nothing, everything would be as it must be.
    """
    from ohlcv_assets.errors import UsageError
    from ohlcv_assets.instruments import load_universe

    universe = load_universe(version or configured.universe, configured.universes)
    if not universe.symbols[market]:
        raise UsageError(
            f"{universe.version} has no {market} symbols", hint="choose another market, or another universe"
        )
    return universe


@dataclass(frozen=True)
class Now:
    """A moment, and whose clock says so."""

    moment_ms: float
    clock: str

    def __str__(self) -> str:
        from ohlcv_assets.timestamps import MINUTE_MS, floor_to, iso

        return f"{self.clock} says {iso(floor_to(round(self.moment_ms), MINUTE_MS))}"


def now_of(configured: Settings, market: Market) -> Now:
    """What time it is: by a replay exchange, whose days are not ours, or by the clock of this machine, as nearly as days go.

    Where the replay exchange does not answer, what is stored can be looked at all the same, and the clock's name says which it is.
    """
    from ohlcv_assets.clock import utc_now
    from ohlcv_assets.errors import TransientError
    from ohlcv_assets.exchange.server_time import measure_clock
    from ohlcv_assets.timestamps import to_ms

    here = to_ms(utc_now())
    if configured.exchange_url is None:
        return Now(here, "the clock of this machine")
    try:
        return Now(measure_clock(market, configured.exchange_url).now_ms(), "the exchange's clock")
    except TransientError:
        return Now(here, "the clock of this machine (the exchange does not answer)")


def day_of(text: str) -> date:
    """The UTC day of a text like 2025-06-01."""
    from ohlcv_assets.timestamps import parse_day

    return parse_day(text)


def hour_of(text: str) -> Interval:
    """The UTC hour of a text like 2025-06-01T05, or of a time with a zone at which an hour begins."""
    from ohlcv_assets.errors import UsageError
    from ohlcv_assets.timestamps import HOUR_MS, Interval, parse_time

    named = _HOUR.fullmatch(text)
    start_ms = parse_time(f"{named['day']}T{named['hour']}:00Z" if named else text)
    if start_ms % HOUR_MS or (named is None and "T" not in text):
        raise UsageError(f"{text!r} is no hour", hint="write it as 2025-06-01T05, in UTC")
    return Interval.of_hour(start_ms)


def names_of(texts: list[str]) -> list[str]:
    """Names given one by one or separated by commas, each once."""
    return list(dict.fromkeys(name.strip() for text in texts for name in text.split(",") if name.strip()))


def print_json(document: Any) -> None:
    """One JSON document on standard output; times as ISO 8601, and null for what JSON has no number for."""
    print(json.dumps(finite(document), ensure_ascii=False, indent=2, default=_text))


def finite(value: Any) -> Any:
    """The same document with null in the place of NaN and infinity, which no JSON parser has to take."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and value - value != 0 else value


def _text(value: Any) -> str:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime | date) else str(value)
