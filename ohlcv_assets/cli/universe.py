"""`ohlcv universe`: make the next version from what the exchange lists, and look at those that there are.

Lives here: options, their meaning, and exit codes. Does not: what is chosen and since when it was listed
(exchange/snapshot.py), files and hashes (instruments.py), or tables (cli/universe_tables.py).
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ohlcv_assets.cli.completion import choices, complete_universe
from ohlcv_assets.settings import settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date

    from ohlcv_assets.exchange.snapshot import Choice, Snapshot
    from ohlcv_assets.instruments import Market, Symbol, Universe

app = typer.Typer(help="Universes: which symbols are captured, in versions that never change.", no_args_is_help=True)

#: The word for no restriction, and the one for no base.
_ANY, _NONE = "any", "none"

_Json = Annotated[bool, typer.Option("--json", help="JSON, for machines.")]
_Version = Annotated[
    str | None,
    typer.Argument(
        help="Such as v7.3; default: OHLCV_UNIVERSE.", show_default=False, autocompletion=complete_universe
    ),
]


@app.command()
def snapshot(
    market: Annotated[
        str, typer.Option(help="spot, futures or both.", autocompletion=choices("spot", "futures", "both"))
    ] = "both",
    quote: Annotated[str, typer.Option(help="Quote assets, separated by commas, or any.")] = "USDT",
    status: Annotated[
        str, typer.Option(help="The exchange's words for how a symbol trades, such as TRADING,BREAK; or any.")
    ] = "TRADING",
    top: Annotated[
        int | None, typer.Option(help="Only the so many most traded in 24 hours, of each market.", show_default=False)
    ] = None,
    symbols: Annotated[
        str | None,
        typer.Option(help="Exactly these: BTC/USDT (spot), BTC/USDT:USDT (futures).", show_default=False),
    ] = None,
    base_version: Annotated[
        str | None,
        typer.Option(
            help="Take over every symbol of this version. Default: only the delisted ones of the newest; none: nothing.",
            show_default=False,
            autocompletion=complete_universe,
        ),
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Its name; default: the number after the newest.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and write nothing.")] = False,
    as_json: _Json = False,
) -> None:
    """Make the next version from what the exchange lists now, with the times of listing and delisting.

    \b
    Examples:
      ohlcv universe snapshot --top 50 --dry-run
      ohlcv universe snapshot --base-version v7.3 --symbols PEPE/USDT
      ohlcv universe snapshot --market futures --status any --version v8.0

    Exit code: 0 released, or nothing has changed; 2 the question cannot be meant, or the version is released already;
    3 the exchange is unavailable.
    """  # noqa: D301  the backspace keeps the lines of the examples apart
    from ohlcv_assets.instruments import next_version, release_next, release_universe

    folder = settings().universes
    choices = _choices(market, quote, status, top, symbols)
    former, keep = _former(base_version, version)
    taken = _take(choices, replace(former, version=version or next_version(folder)), keep)
    universe = taken.universe
    has_news = version is not None or universe.content_hash != former.content_hash
    if not has_news:
        universe = former
    elif not dry_run and version is not None:
        release_universe(universe, folder)
    elif not dry_run:
        universe = release_next(universe, folder)
    _tell(former, replace(taken, universe=universe), released=has_news and not dry_run, as_json=as_json)


@app.command("list")
def list_(as_json: _Json = False) -> None:
    """Every released version, oldest first; the one in use is marked.

    \b
    Examples:
      ohlcv universe list

    Exit code: 0 told; 2 there is no such version, or its file was changed.
    """  # noqa: D301  the backspace keeps the lines of the examples apart
    from ohlcv_assets.cli.universe_tables import show_table
    from ohlcv_assets.instruments import load_universe, released_versions

    configured = settings()
    known = [load_universe(version, configured.universes) for version in released_versions(configured.universes)]
    in_use = configured.universe.replace("_", ".")
    facts = [{**_facts(universe), "in_use": universe.version == in_use} for universe in known]
    if as_json:
        return _print_json(facts)
    rows = [
        (f["version"], *(str(f[c]) for c in _COUNTS), f["content_hash"][:19], "in use" * f["in_use"]) for f in facts
    ]
    return show_table(("version", *_COUNTS, "content hash", ""), rows)


@app.command()
def show(
    version: _Version = None,
    at: Annotated[
        str | None,
        typer.Option(
            help="Only what was listed then: a UTC day, or a time such as 2024-01-01T00:00Z.", show_default=False
        ),
    ] = None,
    as_json: _Json = False,
) -> None:
    """The symbols of a version, with the times of their listings where they are known.

    \b
    Examples:
      ohlcv universe show v7.3
      ohlcv universe show --at 2024-01-01 --json | jq .symbols.spot

    Exit code: 0 told; 2 there is no such version, or its file was changed.
    """  # noqa: D301  the backspace keeps the lines of the examples apart
    from ohlcv_assets.cli.universe_tables import listing_row, show_table
    from ohlcv_assets.instruments import Market

    universe = _load(version)
    by_market: Mapping[Market, tuple[Symbol, ...]] = universe.symbols if at is None else universe.at(_moment(at))
    if as_json:
        times = {s: universe.listings[s].to_json() for m in Market for s in by_market[m] if s in universe.listings}
        return _print_json({**_facts(universe), "at": at, "symbols": by_market, "listings": times})
    rows = [listing_row(universe, symbol) for market in Market for symbol in by_market[market]]
    show_table(("market", "symbol", "since", "until", "source"), rows)
    counts = ", ".join(f"{len(by_market[market])} {market}" for market in Market)
    return print(f"{universe.version}{f' at {at}' if at else ''}: {counts} symbols, {universe.content_hash}")


@app.command()
def diff(
    former: Annotated[str, typer.Argument(help="A version, such as v7.3.", autocompletion=complete_universe)],
    latter: Annotated[str, typer.Argument(help="Another one.", autocompletion=complete_universe)],
    as_json: _Json = False,
) -> None:
    """What is otherwise in the second version than in the first.

    \b
    Examples:
      ohlcv universe diff v7.3 v7.4

    Exit code: 0 whether they differ or not; 2 there is no such version, or its file was changed.
    """  # noqa: D301  the backspace keeps the lines of the examples apart
    from ohlcv_assets.cli.universe_tables import changes

    found = [asdict(change) for change in changes(_load(former), _load(latter))]
    if as_json:
        return _print_json(found)
    return _show_changes(found, f"{former} and {latter} have the same symbols and times")


@app.command()
def check(
    version: Annotated[
        str | None,
        typer.Argument(help="Default: every released version.", show_default=False, autocompletion=complete_universe),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Whether a version's file is what was released under its name.

    \b
    Examples:
      ohlcv universe check
      ohlcv universe check v7.3 --json

    Exit code: 0 it is; 1 it was changed; 2 there is no such version.
    """  # noqa: D301  the backspace keeps the lines of the examples apart
    from ohlcv_assets.errors import UniverseChanged
    from ohlcv_assets.instruments import released_versions

    results = []
    for each in [version] if version else released_versions(settings().universes):
        try:
            universe = _load(each)
            results.append({"version": each, "released": True, "says": universe.content_hash})
        except UniverseChanged as changed:
            results.append({"version": each, "released": False, "says": str(changed)})
    if as_json:
        _print_json(results)
    for result in [] if as_json else results:
        print(f"{result['version']}: {'as released' if result['released'] else 'CHANGED'}, {result['says']}")
    raise typer.Exit(0 if all(result["released"] for result in results) else 1)


def _choices(market: str, quote: str, status: str, top: int | None, symbols: str | None) -> dict[Market, Choice]:
    """What is wanted of each market."""
    from ohlcv_assets.errors import UsageError
    from ohlcv_assets.exchange.snapshot import Choice
    from ohlcv_assets.instruments import Market, Symbol

    markets = list(Market) if market == "both" else [Market.parse(market)]
    if symbols is None:
        return dict.fromkeys(markets, Choice(_words("--quote", quote), _words("--status", status), top))
    if top is not None:
        raise UsageError("--symbols and --top exclude each other", hint="give one of them")
    picked = [Symbol(name.strip()) for name in symbols.split(",") if name.strip()]
    if not picked or any(symbol.market not in markets for symbol in picked):
        raise UsageError(
            f"--symbols {symbols!r} names no symbol, or one that is not of --market {market}",
            hint="write BTC/USDT for spot and BTC/USDT:USDT for futures",
        )
    return {each: Choice(symbols=tuple(s for s in picked if s.market is each)) for each in markets}


def _words(option: str, text: str) -> frozenset[str]:
    """The words of a list; none, for no restriction, when it is `any`."""
    from ohlcv_assets.errors import UsageError

    if text.strip().lower() == _ANY:
        return frozenset()
    words = frozenset(word.strip().upper() for word in text.split(",") if word.strip())
    if not words:
        raise UsageError(f"{option} {text!r} names nothing", hint=f"{option} any takes them all")
    return words


def _former(base_version: str | None, version: str | None) -> tuple[Universe, dict[Market, list[Symbol]]]:
    """The version whose listing times are known, and which of its symbols stay."""
    from ohlcv_assets.cli.universe_tables import delisted
    from ohlcv_assets.errors import UniverseChanged, UsageError
    from ohlcv_assets.instruments import Market, Universe, comes_after, released_versions

    nothing = Universe.of(version or "v0", {})  # a version of another form is refused before anything is asked
    released = list(released_versions(settings().universes))
    if version in released:
        raise UniverseChanged(
            f"universe {version} is released already, and a version never changes",
            hint="leave --version away for the next number",
        )
    if version is not None and released and not comes_after(version, released[-1]):
        raise UsageError(
            f"{version} does not come after {released[-1]}, the newest universe",
            hint="leave --version away for the next number",
        )
    if base_version == _NONE or (base_version is None and not released):
        return nothing, {}
    former = _load(base_version or released[-1])
    stay = set(former.listings) | {s for m in Market for s in former.symbols[m]} if base_version else delisted(former)
    return former, {market: [s for s in former.symbols[market] if s in set(stay)] for market in Market}


def _take(choices: dict[Market, Choice], former: Universe, keep: dict[Market, list[Symbol]]) -> Snapshot:
    from ohlcv_assets.errors import UsageError
    from ohlcv_assets.exchange.snapshot import take_snapshot

    taken = asyncio.run(take_snapshot(settings(), choices, former, keep))
    if not any(taken.universe.symbols.values()):
        raise UsageError("the exchange lists no symbol of that kind", hint="give another --quote or --status, or any")
    return taken


def _tell(former: Universe, taken: Snapshot, *, released: bool, as_json: bool) -> None:
    """Say what the new version has, and what is otherwise than in the former one."""
    from ohlcv_assets.cli.universe_tables import changes

    universe = taken.universe
    found = [asdict(change) for change in changes(former, universe)]
    path = settings().universes / f"{universe.version}.json"
    if as_json:
        facts = {**_facts(universe), "released": released, "path": str(path), "former": former.version}
        return _print_json({**facts, "changes": found, "left_out": taken.left_out})
    _show_changes(found, f"nothing has changed since {former.version}")
    if taken.left_out:
        print(f"left out, for they have no bar yet: {', '.join(taken.left_out)}")
    counts = ", ".join(f"{len(symbols)} {market}" for market, symbols in universe.symbols.items())
    print(f"{universe.version}: {counts} symbols, {len(_delisted(universe))} delisted, {universe.content_hash}")
    if released:
        return print(f"released as {path}; capture it with OHLCV_UNIVERSE={universe.version}")
    return print("nothing was released")


_COUNTS = ("spot", "futures", "delisted")


def _facts(universe: Universe) -> dict[str, Any]:
    """A universe's name, how many symbols it has, and its hash."""
    counts: dict[str, int] = {market.value: len(symbols) for market, symbols in universe.symbols.items()}
    hashed = {"content_hash": universe.content_hash, "delisted": len(_delisted(universe))}
    return {"version": universe.version, **counts, **hashed}


def _delisted(universe: Universe) -> list[Symbol]:
    from ohlcv_assets.cli.universe_tables import delisted

    return delisted(universe)


def _show_changes(found: list[dict[str, str]], nothing: str) -> None:
    from ohlcv_assets.cli.universe_tables import show_table

    # The first version with times dates every symbol: one line says so, and --json has them all.
    dated = [each for each in found if each["change"] == "dated"]
    rows = [(each["change"], each["market"], each["symbol"], each["detail"]) for each in found if each not in dated]
    if rows:
        show_table(("change", "market", "symbol", "listed"), rows)
    if dated:
        print(f"listing times that were not known before: {len(dated)}")
    if not found:
        print(nothing)


def _load(version: str | None) -> Universe:
    from ohlcv_assets.instruments import load_universe

    configured = settings()
    return load_universe(version or configured.universe, configured.universes)


def _moment(text: str) -> int | date:
    """A UTC day as a date, a time as UNIX milliseconds."""
    from datetime import date

    from ohlcv_assets.timestamps import parse_time

    moment_ms = parse_time(text)
    return date.fromisoformat(text) if len(text) == len("2024-01-01") else moment_ms


def _print_json(document: object) -> None:
    print(json.dumps(document, ensure_ascii=False, indent=2))
