"""The doctor: looks at everything that a deployment needs, and says what is wrong and what to do.

Lives here: the examinations, each by itself, so that one that fails does not hide the others. Does not: mending anything, or
showing it (cli/doctor.py). Nothing is started or changed, and nothing is asked twice: a server that does not run is a finding.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from enum import StrEnum
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ohlcv_assets.errors import OhlcvError
from ohlcv_assets.instruments import Market, Universe, load_universe
from ohlcv_assets.settings import Settings
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, Interval, floor_to, from_ms, iso

_PACKAGES = (
    "ohlcv-assets", "dagster", "dagster-postgres", "ccxt", "polars", "pyarrow", "psycopg", "great-expectations"
)  # fmt: skip
_FEWEST_FREE_GIB = 5.0
#: A clock that is further off does no harm, for the exchange's is used; but whoever reads logs is misled.
_LARGEST_OFFSET_S = 1.0
#: How far back the newest bar is looked for, and how old it may be while something streams.
_LOOK_BACK_MS, _FRESH_MS = 180 * MINUTE_MS, 3 * MINUTE_MS


class Health(StrEnum):
    """How something is: `warn` is worth a look, `bad` keeps a part of the platform from working, `away` does not answer."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"
    AWAY = "away"


@dataclass(frozen=True)
class Finding:
    """What one examination found, in one sentence, what to do about it, and the numbers."""

    name: str
    health: Health
    sentence: str
    advice: str | None = None
    numbers: dict[str, Any] | None = None

    def facts(self) -> dict[str, Any]:
        """Plain values, for machines."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def examine(settings: Settings) -> Iterator[Finding]:
    """Every examination, one after the other; each gives at least one finding, whatever happens in it."""
    yield from _carefully("versions", _versions)
    yield from _carefully("disk", partial(_disk, settings))
    yield from _carefully("universe", partial(_universe, settings))
    for market in Market:
        yield from _carefully(f"exchange {market}", partial(_exchange, settings, market))
    yield from _carefully("database", partial(_database, settings))
    yield from _carefully("lake", partial(_lake, settings))
    for market in Market:
        yield from _carefully(f"last bars {market}", partial(_last_bars, settings, market))


def _carefully(name: str, look: Callable[[], Finding]) -> Iterator[Finding]:
    try:
        yield look()
    except OhlcvError as error:
        health = Health.AWAY if error.exit_code == OhlcvError.exit_code else Health.BAD
        yield Finding(name, health, error.message, error.hint)
    except Exception as error:  # noqa: BLE001  a doctor does not die of what ails the patient
        yield Finding(name, Health.BAD, f"{type(error).__name__}: {error}"[:300])


def _versions() -> Finding:
    found = {"python": sys.version.split()[0]}
    missing = []
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            missing.append(name)
    sentence = ", ".join(f"{name} {number}" for name, number in found.items())
    if missing:
        return Finding(
            "versions", Health.BAD, f"not installed: {', '.join(missing)}", "install from requirements.lock"
        )
    return Finding("versions", Health.OK, sentence, numbers=found)


def _disk(settings: Settings) -> Finding:
    folder = settings.home
    while not folder.exists():
        folder = folder.parent
    free_gib = shutil.disk_usage(folder).free / 2**30
    numbers = {"free_gib": round(free_gib, 1), "home": str(settings.home)}
    sentence = f"{free_gib:.1f} GiB free below {settings.home}"
    if not os.access(folder, os.W_OK):
        return Finding(
            "disk", Health.BAD, f"{folder} cannot be written", "set OHLCV_HOME to a folder of yours", numbers
        )
    if free_gib < _FEWEST_FREE_GIB:
        return Finding("disk", Health.WARN, sentence, "a day of 500 symbols takes 120 MiB in PostgreSQL", numbers)
    return Finding("disk", Health.OK, sentence, numbers=numbers)


def _universe(settings: Settings) -> Finding:
    universe = load_universe(settings.universe, settings.universes)
    counts = {market.value: len(universe.symbols[market]) for market in Market}
    sentence = f"{universe.version}: {counts['spot']} spot and {counts['futures']} futures symbols, as released"
    return Finding("universe", Health.OK, sentence, numbers=counts)


def _exchange(settings: Settings, market: Market) -> Finding:
    from ohlcv_assets.exchange.server_time import BASE_URLS, measure_clock

    began_s = time.monotonic()
    clock = measure_clock(market, settings.exchange_url)
    offset_s = (time.time() * 1000 - clock.now_ms()) / 1000
    name, place = f"exchange {market}", settings.exchange_url or BASE_URLS[market]
    numbers = {"offset_s": round(offset_s, 4), "uncertainty_s": round(clock.uncertainty_s, 4), "speed": clock.speed}
    numbers["asking_s"] = round(time.monotonic() - began_s, 3)
    if settings.exchange_url is not None:
        sentence = f"{place} is a replay exchange at {clock.speed:g}x: {iso(clock.now_ms())} there"
        return Finding(name, Health.OK, sentence, numbers=numbers)
    sentence = (
        f"{place} answers; our clock is {1000 * offset_s:+.0f} ms off (known to {1000 * clock.uncertainty_s:.0f} ms)"
    )
    if abs(offset_s) > _LARGEST_OFFSET_S:
        return Finding(name, Health.WARN, sentence, "start a time service (chrony, systemd-timesyncd)", numbers)
    return Finding(name, Health.OK, sentence, numbers=numbers)


def _database_url(settings: Settings) -> str | None:
    """The address of the bars' database, or None when the local server does not run: it is not started here."""
    from ohlcv_assets.storage.local_postgres import LocalPostgres, bars_url

    if settings.database_url is None and not LocalPostgres(settings.home).status().running:
        return None
    return bars_url(settings)


def _database(settings: Settings) -> Finding:
    import psycopg

    from ohlcv_assets.storage.connections import Role, conninfo, translated
    from ohlcv_assets.storage.migrate import migrations

    url = _database_url(settings)
    if url is None:
        return Finding("database", Health.AWAY, "the local PostgreSQL does not run", "ohlcv db start")
    with translated(), psycopg.connect(conninfo(url, Role.OWNER), autocommit=True) as connection:
        server = connection.info.parameter_status("server_version") or "unknown"
        there = connection.execute("select to_regclass('public.schema_migrations') is not null").fetchone()
        applied = (
            connection.execute("select name from public.schema_migrations").fetchall() if there and there[0] else []
        )
    known = {migration.name for migration in migrations()}
    pending = sorted(known - {name for (name,) in applied})
    numbers = {"server_version": server, "migrations_pending": len(pending)}
    if pending:
        return Finding("database", Health.WARN, f"not applied yet: {', '.join(pending)}", "ohlcv db migrate", numbers)
    for role in (Role.WRITER, Role.READER):
        with translated(), psycopg.connect(conninfo(url, role), autocommit=True) as connection:
            connection.execute("select 1 from public.bars limit 1")
    return Finding(
        "database", Health.OK, f"PostgreSQL {server}, tables up to date, both roles can be taken", numbers=numbers
    )


def _lake(settings: Settings) -> Finding:
    from ohlcv_assets.storage.lake import Lake, Signature

    lake, universe = Lake(settings.lake_url, first_contact_s=0), load_universe(settings.universe, settings.universes)
    days = {market.value: lake.days(Signature.daily(market, universe)) for market in Market}
    sentence = "; ".join(f"{market} {_span(held)}" for market, held in days.items())
    numbers = {f"days_{market}": len(held) for market, held in days.items()}
    holes = {market: _holes(held) for market, held in days.items()}
    lacking = ", ".join(f"{market} {day}" for market, found in holes.items() for day in found[:3])
    where = f"{settings.lake_url}: {sentence}"
    if lacking:
        return Finding(
            "lake", Health.WARN, f"{where}; days lack in between: {lacking}", "ohlcv download-bulk", numbers
        )
    return Finding("lake", Health.OK, where, numbers=numbers)


def _span(days: list[date]) -> str:
    return f"{len(days)} days, {days[0]} to {days[-1]}" if days else "no day yet"


def _holes(days: list[date]) -> list[date]:
    """The days between the first and the last that are not there."""
    if not days:
        return []
    every = (days[0] + timedelta(days=number) for number in range((days[-1] - days[0]).days))
    return [day for day in every if day not in set(days)]


def _last_bars(settings: Settings, market: Market) -> Finding:
    """How old the newest streamed bar of each symbol is, by the exchange's clock; symbols without one are named."""
    from ohlcv_assets.exchange.server_time import measure_clock
    from ohlcv_assets.storage.database import Database

    name, url = f"last bars {market}", _database_url(settings)
    if url is None:
        return Finding(name, Health.AWAY, "the local PostgreSQL does not run", "ohlcv db start")
    now_ms = measure_clock(market, settings.exchange_url).now_ms()
    universe = load_universe(settings.universe, settings.universes)
    recent = Interval(floor_to(now_ms, MINUTE_MS) - _LOOK_BACK_MS, floor_to(now_ms, MINUTE_MS) + MINUTE_MS)
    with Database(url, patience_s=0) as database:
        keys = database.keys(market, recent)
    newest = {str(symbol): int(moment) for symbol, moment in keys.group_by("symbol").max().iter_rows()}
    return _freshness(name, newest, _expected(universe, market, now_ms), now_ms)


def _expected(universe: Universe, market: Market, now_ms: int) -> tuple[str, ...]:
    today = Interval(floor_to(now_ms, DAY_MS), floor_to(now_ms, DAY_MS) + DAY_MS)
    return tuple(universe.listed_in(market, today))


def _freshness(name: str, newest: dict[str, int], expected: tuple[str, ...], now_ms: int) -> Finding:
    late = sorted(symbol for symbol in expected if newest.get(symbol, 0) + MINUTE_MS + _FRESH_MS < now_ms)
    numbers = {"symbols": len(expected), "symbols_late": len(late), "late": late[:20]}
    if not expected:
        sentence = "the universe has no symbol that is listed now: no bar is expected"
        return Finding(
            name, Health.WARN, sentence, "set OHLCV_UNIVERSE to a version with symbols of this market", numbers
        )
    if not newest:
        sentence = f"no bar was streamed in the three hours before {iso(now_ms)}"
        return Finding(name, Health.WARN, sentence, "make up, or ohlcv stream", numbers)
    age_s = (now_ms - max(newest.values()) - MINUTE_MS) / 1000
    sentence = f"the newest bar ended {from_ms(max(newest.values()) + MINUTE_MS):%H:%M} UTC, {age_s:.0f} s ago"
    if late:
        some = ", ".join(late[:5])
        return Finding(name, Health.BAD, f"{sentence}; {len(late)} of {len(expected)} symbols are late: {some}", "look at the stream's run", numbers)  # fmt: skip
    return Finding(name, Health.OK, f"{sentence}, of all {len(expected)} symbols", numbers=numbers)
