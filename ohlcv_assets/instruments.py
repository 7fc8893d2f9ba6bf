"""What is traded: markets, symbols, and universes that never change once released.

Lives here: the only place that knows which markets there are, what a legal symbol looks like, and how a
universe file is read, hashed and released. Does not: whether the exchange lists a symbol today, which the exchange
alone can say (exchange/binance.py).

A universe is a JSON file `<version>.json` with a list of CCXT unified symbols per market and, from v7.4 on, the times of
their listings. `released.json` beside it holds the content hash of every released version: a file whose content differs
from its release is an error, so that a version's name means the same set of symbols for ever.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from ohlcv_assets.errors import (
    Refused,
    UniverseChanged,
    UnknownMarket,
    UnknownSymbol,
    UnknownUniverse,
    UsageError,
)
from ohlcv_assets.listing_times import ListingTimes
from ohlcv_assets.timestamps import Interval, to_ms


class Market(StrEnum):
    """A market of Binance: `spot`, or `futures` for USD-M perpetuals."""

    SPOT = "spot"
    FUTURES = "futures"

    @classmethod
    def parse(cls, text: str) -> Market:
        """The market of that name, or `UnknownMarket`."""
        if text not in set(cls):
            raise UnknownMarket(f"{text!r} is no market", hint="use spot or futures")
        return cls(text)


#: The first UTC day of each market on Binance: nothing was listed before it, and nothing can be asked for.
FIRST_DAY: dict[Market, date] = {Market.SPOT: date(2017, 8, 17), Market.FUTURES: date(2019, 9, 8)}

_VERSION = re.compile(r"v([0-9]+)(?:\.([0-9]+))?")

# Real listings hold letters of every script (a Chinese base asset is tradable), so letters are not limited to
# ASCII; what could be mistaken for a path, a quote or a line of a log is.
_SYMBOL = re.compile(
    r"(?P<base>[^\W_]{1,30})/(?P<quote>[A-Z0-9]{1,20})(?::(?P<settle>[A-Z0-9]{1,20})(?:-[0-9]{6})?)?"
)


class Symbol(str):
    """A symbol in the CCXT unified form: `BTC/USDT` (spot), `BTC/USDT:USDT` (USD-M futures).

    A plain string that was checked once, so that a wrong one cannot travel.

    Raises:
        UnknownSymbol: the text has another form.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Symbol:
        """The text itself, checked."""
        if not _SYMBOL.fullmatch(text):
            raise UnknownSymbol(
                f"{text[:80]!r} is no symbol in the CCXT unified form",
                hint="write BTC/USDT (spot) or BTC/USDT:USDT (futures)",
            )
        return super().__new__(cls, text)

    @property
    def market(self) -> Market:
        """The market that the form of the symbol belongs to."""
        return Market.FUTURES if ":" in self else Market.SPOT


@dataclass(frozen=True)
class Universe:
    """An immutable, versioned set of symbols per market.

    Attributes:
        version: its name, such as `v7.3`; `v7_3` inside paths.
        exchange_id: the CCXT id of the exchange that lists the symbols.
        symbols: per market, sorted and without duplicates: every symbol of the version, delisted ones included.
        listings: when each was listed. A symbol that is not in it (v7.3 has none) is taken for listed at any time.
    """

    version: str
    exchange_id: str
    symbols: Mapping[Market, tuple[Symbol, ...]] = field(hash=False)  # a mapping has no hash; equality compares it
    listings: Mapping[Symbol, ListingTimes] = field(default_factory=dict, hash=False)

    @classmethod
    def of(
        cls,
        version: str,
        symbols: Mapping[Market, list[str]],
        exchange_id: str = "binance",
        listings: Mapping[Symbol, ListingTimes] | None = None,
    ) -> Universe:
        """A universe of these symbols: checked, sorted, each once.

        Raises:
            UnknownUniverse: the version is not of the form v1.2.
            UnknownSymbol: a symbol of another form, or of the other market; times of a symbol that it does not have.
        """
        if not _VERSION.fullmatch(version):
            raise UnknownUniverse(f"{version!r} is no version of a universe", hint="write v7.3")
        by_market = {market: _of_market(market, symbols.get(market, [])) for market in Market}
        times = dict(sorted((listings or {}).items()))
        if strangers := set(times).difference(*by_market.values()):
            raise UnknownSymbol(
                f"listing times of {min(strangers)}, which is no symbol of {version}", hint="leave them out"
            )
        return cls(version, exchange_id, by_market, times)

    def listed_in(self, market: Market, interval: Interval) -> tuple[Symbol, ...]:
        """The market's symbols that were listed at some time of the interval, sorted: those to expect bars of."""
        return tuple(
            symbol
            for symbol in self.symbols[market]
            if symbol not in self.listings or self.listings[symbol].listed_in(interval)
        )

    def at(self, moment: int | date) -> Mapping[Market, tuple[Symbol, ...]]:
        """The symbols that were listed then, per market, sorted.

        Args:
            moment: UNIX milliseconds, a tz-aware datetime, or a date: listed at some time of that UTC day.

        Raises:
            NaiveTime: a datetime without a zone.
        """
        if isinstance(moment, date) and not isinstance(moment, datetime):
            interval = Interval.of_day(moment)
        else:
            start_ms = to_ms(moment) if isinstance(moment, datetime) else moment
            interval = Interval(start_ms, start_ms + 1)
        return {market: self.listed_in(market, interval) for market in Market}

    @property
    def path_form(self) -> str:
        """The version as it stands in paths: `v7_3`."""
        return self.version.replace(".", "_")

    @property
    def content_hash(self) -> str:
        """sha256 of what the universe says, apart from its name; the same content has the same hash."""
        content = {"exchange_id": self.exchange_id, **self._content()}
        canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"

    def to_json(self) -> str:
        """The text of the universe's file."""
        content = {
            "version": self.version,
            "exchange_id": self.exchange_id,
            "content_hash": self.content_hash,
            **self._content(),
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def _content(self) -> dict[str, Any]:
        """Symbols and, where there are some, times; without them what it was before there were any, and so is its hash."""
        symbols = {market.value: [str(symbol) for symbol in self.symbols[market]] for market in Market}
        listings = {str(symbol): times.to_json() for symbol, times in self.listings.items()}
        return {"symbols": symbols, "listings": listings} if listings else {"symbols": symbols}


def shard(symbols: Sequence[Symbol], index: int, count: int) -> list[Symbol]:
    """One of `count` parts of the symbols, in their order: disjoint, together all of them, none chosen by position.

    A symbol's part follows from its name alone, so that a symbol that is added later moves no other.

    Raises:
        UsageError: no such part, such as the fourth of three.
    """
    if not 0 <= index < count:
        raise UsageError(
            f"there is no part {index + 1} of {count}",
            hint=f"use 1/{max(count, 1)} to {max(count, 1)}/{max(count, 1)}",
        )
    return [symbol for symbol in symbols if int(hashlib.sha256(symbol.encode()).hexdigest(), 16) % count == index]


def load_universe(version: str, folder: Path) -> Universe:
    """The released universe of that version.

    Args:
        version: `v7.3` or `v7_3`.
        folder: where the universe files and `released.json` lie.

    Raises:
        UnknownUniverse: no such file, or one that was never released; lists those that are.
        UniverseChanged: the file's content is not what was released under this name.
    """
    version = version.replace("_", ".")
    released = _released(folder)
    path = folder / f"{version}.json"
    if version not in released or not path.is_file():
        known = ", ".join(sorted(released)) or "none"
        raise UnknownUniverse(f"there is no released universe {version!r} in {folder}", hint=f"use one of: {known}")
    universe = _read(path)
    if universe.version != version or universe.content_hash != released[version]:
        raise UniverseChanged(
            f"{path} was changed after its release: {universe.version} {universe.content_hash}, released {released[version]}",
            hint="restore the file, and release the new set of symbols under a new version",
        )
    return universe


def release_universe(universe: Universe, folder: Path) -> Path:
    """Write a new universe file and remember its hash; doing it again with the same content changes nothing.

    Another process that releases at the same time is waited for, and no kill leaves a torn file: at worst a universe file
    that was not released, which the next release of that version writes over.

    Raises:
        UniverseChanged: this version is released already, with other content.
        Refused: another process holds the folder for a long time.
    """
    with _releasing(folder) as released:
        return _release(universe, folder, released)


def release_next(universe: Universe, folder: Path) -> Universe:
    """Release the universe under the number after the newest, whatever version it names; it comes back with that name.

    When the newest version has the same content nothing is released, and that version comes back.

    Raises:
        UniverseChanged: `released.json` cannot be read.
        Refused: another process holds the folder for a long time.
    """
    with _releasing(folder) as released:
        newest = max(released, key=_number, default=None)
        if newest is not None and released[newest] == universe.content_hash:
            return replace(universe, version=newest)
        named = replace(universe, version=_after(newest))
        _release(named, folder, released)
        return named


def released_versions(folder: Path) -> dict[str, str]:
    """The content hash of every released version, oldest version first; empty where nothing was released.

    Raises:
        UniverseChanged: `released.json` cannot be read.
    """
    released = _released(folder)
    return {version: released[version] for version in sorted(released, key=_number)}


def next_version(folder: Path) -> str:
    """The version that `release_next` would give: v7.4 after v7.3, v1.0 where there is none."""
    return _after(max(_released(folder), key=_number, default=None))


def comes_after(version: str, other: str) -> bool:
    """Whether a version is a later one, by its numbers: v7.31 comes after v7.4."""
    return _number(version) > _number(other)


def _after(version: str | None) -> str:
    major, minor = (1, -1) if version is None else _number(version)
    return f"v{major}.{minor + 1}"


def _number(version: str) -> tuple[int, int]:
    found = _VERSION.fullmatch(version)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)


def _release(universe: Universe, folder: Path, released: dict[str, str]) -> Path:
    if released.get(universe.version, universe.content_hash) != universe.content_hash:
        raise UniverseChanged(
            f"universe {universe.version} is released already, with other content",
            hint=f"release this one under the next version, {_after(max(released, key=_number))}",
        )
    path = folder / f"{universe.version}.json"
    _write(path, universe.to_json())
    # The release comes last: a universe file without one is no version yet.
    released[universe.version] = universe.content_hash
    _write(_manifest(folder), json.dumps(released, indent=2, sort_keys=True) + "\n")
    return path


@contextmanager
def _releasing(folder: Path) -> Iterator[dict[str, str]]:
    """What is released in the folder, held against other processes that release there."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".releasing.lock").acquire(timeout=_LOCK_TIMEOUT_S):
            yield _released(folder)
    except Timeout as error:
        raise Refused(f"another process releases a universe in {folder}", hint="try again when it is done") from error


def _write(path: Path, text: str) -> None:
    """Put the whole text there or nothing; the same text again touches nothing."""
    if path.is_file() and path.read_bytes() == text.encode():
        return
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _of_market(market: Market, symbols: list[str]) -> tuple[Symbol, ...]:
    checked = sorted({Symbol(symbol) for symbol in symbols})
    for symbol in checked:
        if symbol.market is not market:
            raise UnknownSymbol(
                f"{symbol} is no {market} symbol", hint="futures symbols name their settlement: BTC/USDT:USDT"
            )
    return tuple(checked)


def _read(path: Path) -> Universe:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        symbols = {Market.parse(market): list(names) for market, names in content["symbols"].items()}
        listings = {Symbol(name): ListingTimes.from_json(t) for name, t in content.get("listings", {}).items()}
        universe = Universe.of(content["version"], symbols, content["exchange_id"], listings)
        shown_hash = content["content_hash"]
    except (KeyError, TypeError, AttributeError, ValueError, UsageError) as error:
        raise UniverseChanged(f"{path} is no universe file: {error!r}", hint="restore the released file") from error
    if shown_hash != universe.content_hash:
        raise UniverseChanged(
            f"{path} shows the hash {shown_hash}, and its content has {universe.content_hash}",
            hint="restore the released file",
        )
    return universe


_LOCK_TIMEOUT_S = 10.0
_RESTORE_RELEASES = "restore released.json from version control; it is the memory of what each version means"


def _manifest(folder: Path) -> Path:
    return folder / "released.json"


def _released(folder: Path) -> dict[str, str]:
    manifest = _manifest(folder)
    if not manifest.is_file():
        return {}
    try:
        released: dict[str, str] = json.loads(manifest.read_text(encoding="utf-8"))
        are_hashes = all(content_hash.startswith("sha256:") for content_hash in released.values())
    except (AttributeError, ValueError) as error:
        raise UniverseChanged(f"{manifest} cannot be read: {error!r}", hint=_RESTORE_RELEASES) from error
    if not are_hashes:
        raise UniverseChanged(f"{manifest} holds what is no content hash", hint=_RESTORE_RELEASES)
    return released
