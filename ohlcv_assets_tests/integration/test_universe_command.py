"""The command `ohlcv universe` as a person or a machine runs it: what it prints, what it writes, its exit code."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

from ohlcv_assets.cli import main
from ohlcv_assets.cli.universe import app as universe_app
from ohlcv_assets.cli.universe_tables import changes
from ohlcv_assets.instruments import Market, Symbol, Universe, load_universe, release_universe, released_versions
from ohlcv_assets.listing_times import ListingTimes, Span
from ohlcv_assets.settings import settings
from ohlcv_assets.timestamps import parse_time

JUNE_1, JUNE_2 = parse_time("2025-06-01"), parse_time("2025-06-02")


class Ended(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of the universes, named by the environment."""
    monkeypatch.setenv("OHLCV_UNIVERSES", str(tmp_path))
    monkeypatch.setenv("OHLCV_UNIVERSE", "v1.0")
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Runs `ohlcv universe` with arguments, in this process."""

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["ohlcv", "universe", *arguments])
        settings.cache_clear()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Ended(int(ended.value.code or 0), said.out, said.err)

    return run


@pytest.fixture
def exchange(replay_exchange, monkeypatch):
    """The session's replay exchange (4 symbols a market), named by the environment."""
    monkeypatch.setenv("OHLCV_EXCHANGE_URL", replay_exchange.url)
    return replay_exchange


@pytest.fixture
def two_versions(folder):
    """v1.0 with two spot symbols, of which v1.1 says that one was delisted, and has one more."""
    times = {
        Symbol("OLD/USDT"): ListingTimes("OLDUSDT", (Span(JUNE_1, JUNE_2, "since first bar, until last bar"),)),
        Symbol("BTC/USDT"): ListingTimes("BTCUSDT", (Span(JUNE_1, None, "since first bar"),)),
    }
    release_universe(Universe.of("v1.0", {Market.SPOT: ["BTC/USDT", "OLD/USDT"]}), folder)
    release_universe(Universe.of("v1.1", {Market.SPOT: ["BTC/USDT", "OLD/USDT", "NEW/USDT"]}, listings=times), folder)
    return folder


def files_in(folder) -> dict[str, bytes]:
    """Every file of the folder but the lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}


def test_a_snapshot_is_the_next_version(run, exchange, two_versions):
    """The version after the newest is released, with what the exchange trades and what was delisted before, and is named."""
    result = run("snapshot", "--top", "2")
    universe = load_universe("v1.2", two_versions)
    assert result.returncode == 0
    assert f"released as {two_versions / 'v1.2.json'}" in result.stdout
    assert "OHLCV_UNIVERSE=v1.2" in result.stdout
    assert len(universe.symbols[Market.FUTURES]) == 2
    assert len(universe.symbols[Market.SPOT]) == 3
    assert universe.listings[Symbol("OLD/USDT")].until_ms == JUNE_2
    assert "NEW/USDT" not in universe.symbols[Market.SPOT]


def test_a_base_keeps_every_symbol(run, exchange, two_versions):
    """With --base-version nothing of the base is lost, listed or not."""
    result = run("snapshot", "--base-version", "v1.1", "--symbols", "ETH/USDT", "--json")
    told = json.loads(result.stdout)
    assert told["released"] is True
    assert load_universe(told["version"], two_versions).symbols[Market.SPOT] == (
        "BTC/USDT", "ETH/USDT", "NEW/USDT", "OLD/USDT",
    )  # fmt: skip
    found = {change["symbol"]: change["change"] for change in told["changes"]}
    assert found == {"ETH/USDT": "added", "NEW/USDT": "delisted"}


def test_a_base_of_none_begins_anew(run, exchange, two_versions):
    """Without a base there is only what was chosen."""
    run("snapshot", "--base-version", "none", "--market", "spot", "--symbols", "BTC/USDT", "--version", "v2.0")
    universe = load_universe("v2.0", two_versions)
    assert (universe.symbols[Market.SPOT], universe.symbols[Market.FUTURES]) == (("BTC/USDT",), ())


def test_a_dry_run_writes_nothing(run, exchange, two_versions):
    """It shows what would change, and leaves every file as it was."""
    before = files_in(two_versions)
    result = run("snapshot", "--dry-run")
    assert result.returncode == 0
    assert "nothing was released" in result.stdout
    assert "added" in result.stdout
    assert files_in(two_versions) == before


def test_the_same_snapshot_again_is_no_new_version(run, exchange, folder):
    """When nothing has changed nothing is released, however often it is asked."""
    assert run("snapshot").returncode == 0
    before = files_in(folder)
    again = run("snapshot")
    assert (again.returncode, "nothing has changed since v1.0" in again.stdout) == (0, True)
    assert files_in(folder) == before


def test_a_released_version_is_refused_before_the_exchange_is_asked(run, two_versions, monkeypatch):
    """A name that is taken is a usage error at once; the released file stays."""
    monkeypatch.setenv("OHLCV_EXCHANGE_URL", "http://127.0.0.1:9")
    before = files_in(two_versions)
    result = run("snapshot", "--version", "v1.1")
    assert result.returncode == 2
    assert "v1.1 is released already" in result.stderr
    assert files_in(two_versions) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--market", "margin"], "'margin' is no market"),
        (["--version", "newest"], "'newest' is no version"),
        (["--base-version", "v9.9"], "no released universe 'v9.9'"),
        (["--top", "0"], "--top 0 takes no symbol"),
        (["--top", "5", "--quote", "any"], "one --quote"),
        (["--top", "5", "--symbols", "BTC/USDT"], "exclude each other"),
        (["--symbols", "BTCUSDT"], "no symbol in the CCXT unified form"),
        (["--symbols", ","], "names no symbol"),
        (["--market", "spot", "--symbols", "BTC/USDT:USDT"], "not of --market spot"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_meant_is_told_before_the_exchange_is_asked(run, two_versions, monkeypatch, arguments, words):
    """A wrong question is exit code 2 and one message, without the exchange."""
    monkeypatch.setenv("OHLCV_EXCHANGE_URL", "http://127.0.0.1:9")
    result = run("snapshot", *arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_nothing_that_fits_is_no_universe(run, exchange, folder):
    """A filter that no symbol passes is a usage error, and releases nothing."""
    result = run("snapshot", "--quote", "XYZ")
    assert (result.returncode, released_versions(folder)) == (2, {})


def test_an_exchange_that_is_away_is_exit_code_3(run, two_versions, monkeypatch):
    """An unreachable exchange is told as that, and releases nothing."""
    monkeypatch.setenv("OHLCV_EXCHANGE_URL", "http://127.0.0.1:9")
    assert run("snapshot").returncode == 3
    assert list(released_versions(two_versions)) == ["v1.0", "v1.1"]


def test_the_list_names_every_version(run, two_versions):
    """Oldest first, with counts and the one in use, as a table and as JSON."""
    table = run("list").stdout.splitlines()
    assert [line.split()[0] for line in table] == ["version", "v1.0", "v1.1"]
    assert table[1].endswith("in use")
    told = json.loads(run("list", "--json").stdout)
    assert [(each["version"], each["spot"], each["delisted"], each["in_use"]) for each in told] == [
        ("v1.0", 2, 0, True),
        ("v1.1", 3, 1, False),
    ]


def test_a_past_day_shows_what_was_listed_then(run, two_versions):
    """--at leaves out what was not listed; a version without times shows all of it."""

    def shown(*arguments):
        return json.loads(run("show", *arguments, "--json").stdout)["symbols"]["spot"]

    assert shown("v1.1") == ["BTC/USDT", "NEW/USDT", "OLD/USDT"]
    assert shown("v1.1", "--at", "2025-06-01") == ["BTC/USDT", "NEW/USDT", "OLD/USDT"]
    assert shown("v1.1", "--at", "2025-06-02T00:00Z") == ["BTC/USDT", "NEW/USDT"]
    assert shown("v1.1", "--at", "2025-05-31") == ["NEW/USDT"]
    assert shown("--at", "2025-06-03") == ["BTC/USDT", "OLD/USDT"]


@pytest.mark.parametrize("moment", ["2025-06-01T00:00", "yesterday"])
def test_a_moment_needs_its_zone(run, two_versions, moment):
    """A naive time, or none at all, is exit code 2."""
    assert run("show", "v1.1", "--at", moment).returncode == 2


def test_without_a_terminal_a_table_is_plain(run, two_versions):
    """No frames, no colours: columns below one another, and a line that sums it up."""
    lines = run("show", "v1.1").stdout.splitlines()
    assert lines[0].split() == ["market", "symbol", "since", "until", "source"]
    assert lines[3] == "spot    OLD/USDT  2025-06-01T00:00Z  2025-06-02T00:00Z  since first bar, until last bar"
    assert lines[-1].startswith("v1.1: 3 spot, 0 futures symbols, sha256:")


def test_a_difference_is_told_symbol_by_symbol(run, two_versions):
    """What was added and what is known now; two equal versions have no difference, and both are exit code 0."""
    told = json.loads(run("diff", "v1.0", "v1.1", "--json").stdout)
    assert [(change["symbol"], change["change"]) for change in told] == [
        ("BTC/USDT", "dated"),
        ("NEW/USDT", "added"),
        ("OLD/USDT", "delisted"),
    ]
    shown = run("diff", "v1.0", "v1.1").stdout.splitlines()
    assert [line.split()[0] for line in shown[:-1]] == ["change", "added", "delisted"]
    assert shown[-1] == "listing times that were not known before: 1"
    same = run("diff", "v1.1", "v1.1")
    assert (same.returncode, same.stdout) == (0, "v1.1 and v1.1 have the same symbols and times\n")
    assert run("diff", "v1.0", "v9.9").returncode == 2


def test_every_kind_of_change_has_its_word():
    """A symbol that came back, one that left, and one whose times were corrected."""

    def universe(*symbols, **times):
        listings = {
            Symbol(f"{b}/USDT"): ListingTimes(b, tuple(Span(*s, "") for s in spans)) for b, spans in times.items()
        }
        return Universe.of("v1", {Market.SPOT: [*symbols, *listings]}, listings=listings)

    former = universe("A/USDT", B=[(1, 5)], C=[(1, None)])
    latter = universe(B=[(1, 5), (9, None)], C=[(2, None)])
    assert {change.symbol: change.change for change in changes(former, latter)} == {
        "A/USDT": "removed",
        "B/USDT": "listed again",
        "C/USDT": "times",
    }


def test_a_check_finds_a_changed_file(run, two_versions):
    """Every version is as released, exit code 0; after one symbol is written in, the check names it with exit code 1."""
    assert run("check").returncode == 0
    path = two_versions / "v1.0.json"
    path.write_text(path.read_text().replace("OLD/USDT", "ODD/USDT"))
    result = run("check")
    assert result.returncode == 1
    assert "v1.0: CHANGED" in result.stdout
    assert "v1.1: as released" in result.stdout
    assert run("check", "v1.1").returncode == 0
    assert run("check", "v9.9").returncode == 2


def test_the_page_has_every_option():
    """The reference page names every subcommand, option and argument that there is, and no other option."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "universes.md").read_text("utf-8")
    commands = typer.main.get_command(universe_app).commands
    options = {
        option for command in commands.values() for each in command.params for option in each.opts if option[0] == "-"
    }
    assert {f"`{name}`" for name in commands} <= set(re.findall("`[a-z]+`", page))
    assert options - {"--help"} == set(re.findall(r"`(--[a-z-]+)", page))


def test_the_file_on_the_page_is_a_universe(folder):
    """The example of a file is read as one: its hash is right, and its symbol came back."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "universes.md").read_text("utf-8")
    text = page.split("```json")[1].split("```")[0].strip()
    (folder / "v7.4.json").write_text(text)
    (folder / "released.json").write_text(json.dumps({"v7.4": json.loads(text)["content_hash"]}))
    assert len(load_universe("v7.4", folder).listings[Symbol("USDC/USDT")].spans) == 2


def test_every_subcommand_has_its_help():
    """`--help` needs neither an exchange nor heavy imports, and shows what there is."""
    command = [sys.executable, "-X", "importtime", "-m", "ohlcv_assets.cli", "universe", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(word in told.stdout for word in ("snapshot", "list", "show", "diff", "check"))
    assert not [
        line for line in told.stderr.splitlines() if line.split("|")[-1].strip() in ("ccxt", "polars", "dagster")
    ]
