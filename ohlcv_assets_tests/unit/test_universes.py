"""Promises of universes: a version's name means the same set of symbols for ever."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_assets.errors import UniverseChanged, UnknownSymbol, UnknownUniverse
from ohlcv_assets.instruments import (
    Market,
    Symbol,
    Universe,
    load_universe,
    next_version,
    release_next,
    release_universe,
    released_versions,
)
from ohlcv_assets.listing_times import ListingTimes, Span

SHIPPED = Path(__file__).resolve().parents[2] / "universes"
BASES = ["BTC", "ETH", "SOL", "XRP", "ADA", "币安人生"]
some_bases = st.lists(st.sampled_from(BASES), max_size=12)


def universe_of(spot=("BTC",), futures=("BTC",), version="v1.0"):
    """A universe of USDT pairs of these bases."""
    return Universe.of(
        version,
        {Market.SPOT: [f"{base}/USDT" for base in spot], Market.FUTURES: [f"{base}/USDT:USDT" for base in futures]},
    )


def with_times(since_ms=0, until_ms=None, source="since first bar", name="BTCUSDT"):
    """A universe whose BTC/USDT has these listing times."""
    times = ListingTimes(name, (Span(since_ms, until_ms, source),))
    return Universe.of("v1.0", {Market.SPOT: ["BTC/USDT", "ETH/USDT"]}, listings={Symbol("BTC/USDT"): times})


@pytest.fixture
def released(tmp_path):
    """A folder with one released universe, v1.0."""
    release_universe(universe_of(), tmp_path)
    return tmp_path


@given(some_bases, some_bases, st.randoms(use_true_random=False))
def test_the_hash_depends_on_the_content_only(spot, futures, random):
    """Order, duplicates and the version's name change nothing of the hash."""
    shuffled = [*spot, *spot[:3]]
    random.shuffle(shuffled)
    assert universe_of(spot, futures).content_hash == universe_of(shuffled, futures[::-1], "v2.1").content_hash


@given(some_bases, some_bases, some_bases, some_bases)
def test_other_symbols_have_another_hash(spot, futures, other_spot, other_futures):
    """Two universes have the same hash if and only if they hold the same symbols in the same markets."""
    same = (set(spot), set(futures)) == (set(other_spot), set(other_futures))
    hashes = universe_of(spot, futures).content_hash, universe_of(other_spot, other_futures).content_hash
    assert (hashes[0] == hashes[1]) == same


def test_another_exchange_has_another_hash():
    """The exchange that lists the symbols is part of what a universe says."""
    symbols = {Market.SPOT: ["BTC/USDT"]}
    assert Universe.of("v1", symbols).content_hash != Universe.of("v1", symbols, "kraken").content_hash


def test_a_universe_can_be_a_key():
    """Equal universes are one key of a dictionary, in any order of their symbols."""
    assert len({universe_of(["BTC", "ETH"]), universe_of(["ETH", "BTC"]), universe_of(["ETH"])}) == 2


def test_a_symbol_of_the_other_market_is_refused():
    """A spot symbol among the futures, or the other way round, is named."""
    for market, symbol in ((Market.SPOT, "BTC/USDT:USDT"), (Market.FUTURES, "BTC/USDT")):
        with pytest.raises(UnknownSymbol, match="BTC/USDT"):
            Universe.of("v1", {market: [symbol]})


@pytest.mark.parametrize("version", ["", "7.3", "v", "v7.3.1", "v7_3", "../v7", "v7\n", "v\u0667", "latest"])
def test_a_version_has_one_form(version):
    """A version that could be read in two ways, or as a path, is refused."""
    with pytest.raises(UnknownUniverse):
        Universe.of(version, {})


def test_what_was_released_is_what_is_loaded(released):
    """A released universe comes back equal, by its name and by the form that stands in paths."""
    universe = load_universe("v1.0", released)
    assert universe == universe_of()
    assert load_universe(universe.path_form, released) == universe


def test_releasing_the_same_again_changes_nothing(released):
    """The second release of the same content leaves every byte of the folder as it was."""
    before = {path.name: path.read_bytes() for path in released.iterdir()}
    release_universe(universe_of(["BTC", "BTC"]), released)
    assert {path.name: path.read_bytes() for path in released.iterdir()} == before


def test_a_released_version_is_never_released_with_other_symbols(released):
    """Other content under a released name is refused, and the released file stays."""
    before = (released / "v1.0.json").read_bytes()
    with pytest.raises(UniverseChanged, match=r"v1\.0"):
        release_universe(universe_of(["ETH"]), released)
    assert (released / "v1.0.json").read_bytes() == before


def test_a_new_version_leaves_the_old_ones(released):
    """Releasing the next version keeps every earlier one."""
    release_universe(universe_of(["ETH"], version="v1.1"), released)
    assert load_universe("v1.0", released) == universe_of()
    assert load_universe("v1.1", released).symbols[Market.SPOT] == ("ETH/USDT",)


@pytest.mark.parametrize(
    "other", [{"since_ms": 1}, {"until_ms": 9}, {"source": "since onboardDate"}, {"name": "XBTUSDT"}], ids=str
)
def test_other_listing_times_have_another_hash(other):
    """Whatever is said of a symbol's listing is part of what the version means."""
    assert with_times(**other).content_hash != with_times().content_hash


def test_without_times_a_universe_is_written_as_ever():
    """A universe that knows no times has no word of them in its file, and the hash that it had before there were any."""
    universe = universe_of()
    assert "listings" not in json.loads(universe.to_json())
    assert universe.content_hash == "sha256:d1b275bce51c4ef9a34bccd49e9fddba96df54c80c056ad22ca7396822782122"


def test_times_of_a_symbol_that_is_not_there_are_refused():
    """Listing times belong to symbols of the universe."""
    times = ListingTimes("BTCUSDT", (Span(0, None, ""),))
    with pytest.raises(UnknownSymbol, match="BTC/USDT"):
        Universe.of("v1.0", {Market.SPOT: ["ETH/USDT"]}, listings={Symbol("BTC/USDT"): times})


def test_listing_times_come_back_as_they_were_released(tmp_path):
    """Every span of a symbol that came back is loaded again, and the universe is equal."""
    spans = (Span(None, 1_000, "until last bar"), Span(2_000, None, "since onboardDate"))
    universe = Universe.of(
        "v1.0", {Market.SPOT: ["BSV/USDT"]}, listings={Symbol("BSV/USDT"): ListingTimes("BCHSVUSDT", spans)}
    )
    release_universe(universe, tmp_path)
    assert load_universe("v1.0", tmp_path) == universe


def test_the_next_version_counts_on(tmp_path):
    """The number after the newest, as numbers and not as text; the first is v1.0."""
    assert next_version(tmp_path) == "v1.0"
    for version in ("v1.9", "v1.10", "v1.2"):
        release_universe(universe_of([version[1:].replace(".", "")], version=version), tmp_path)
    assert next_version(tmp_path) == "v1.11"
    assert list(released_versions(tmp_path)) == ["v1.2", "v1.9", "v1.10"]


def test_the_newest_is_not_released_again_under_another_name(released):
    """The same content as the newest version is that version."""
    assert release_next(universe_of(version="v0"), released).version == "v1.0"
    assert release_next(universe_of(["ETH"], version="v0"), released).version == "v1.1"
    assert list(released_versions(released)) == ["v1.0", "v1.1"]


_RELEASE = """
import sys
from pathlib import Path
from ohlcv_assets.instruments import Market, Universe, release_next
print("ready", flush=True)
sys.stdin.readline()
for count in range(int(sys.argv[3])):
    symbols = [f"{sys.argv[2]}{count}N{number}/USDT" for number in range(400)]
    print(release_next(Universe.of("v0", {Market.SPOT: symbols}), Path(sys.argv[1])).version, flush=True)
"""


def _releasing(folder, name, count):
    """A process that releases so many universes, once it is told to."""
    command = [sys.executable, "-c", _RELEASE, str(folder), name, str(count)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def test_processes_that_release_at_once_get_a_version_each(tmp_path):
    """Four processes that release at the same time lose nothing: every version is there, and is one process's."""
    processes = [_releasing(tmp_path, name, 5) for name in "ABCD"]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0].split() for process in processes]
    assert sorted(version for versions in said for version in versions) == sorted(f"v1.{n}" for n in range(20))
    for name, versions in zip("ABCD", said, strict=True):
        for version in versions:
            assert all(s.startswith(name) for s in load_universe(version, tmp_path).symbols[Market.SPOT])


@pytest.mark.parametrize("delay_ms", range(0, 40, 4))
def test_a_kill_leaves_whole_versions(tmp_path, delay_ms):
    """A process that is killed while it releases leaves no torn file, and nothing that stops the next release."""
    process = _releasing(tmp_path, "A", 200)
    process.stdin.write("go\n")
    process.stdin.flush()
    time.sleep(delay_ms / 1000)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = released_versions(tmp_path)
    assert [load_universe(version, tmp_path).content_hash for version in before] == list(before.values())
    named = release_next(universe_of(), tmp_path)
    assert load_universe(named.version, tmp_path) == named


_TORN = """
import resource, signal, sys
from pathlib import Path
from ohlcv_assets.instruments import Market, Universe, release_next
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
release_next(Universe.of("v0", {Market.SPOT: ["BTC/USDT", "ETH/USDT"]}), Path(sys.argv[1]))
"""


@pytest.mark.parametrize("limit", [100, 1_000], ids=["in the universe's file", "in the list of releases"])
def test_a_kill_within_a_write_tears_nothing(tmp_path, limit):
    """A process that dies in the middle of writing either file leaves every release as it was, and the next one works."""
    for number in range(20):  # a list of releases of some 1,800 bytes; a universe's file has 300
        release_universe(universe_of([f"A{number}"], version=f"v1.{number}"), tmp_path)
    before = released_versions(tmp_path)
    ended = subprocess.run([sys.executable, "-c", _TORN, str(tmp_path), str(limit)], check=False)
    assert ended.returncode == -signal.SIGXFSZ
    assert released_versions(tmp_path) == before
    assert [load_universe(version, tmp_path).content_hash for version in before] == list(before.values())
    assert release_next(universe_of(["ETH"]), tmp_path).version == "v1.20"


def _with(change):
    """A function that changes the parsed content of a universe file."""

    def edit(text):
        content = json.loads(text)
        change(content)
        return json.dumps(content)

    return edit


_SPAN = {"since_ms": 0, "until_ms": None, "source": ""}
_TIMES = {"exchange_name": "BTCUSDT", "spans": [_SPAN]}
CHANGES = {
    "a symbol more": _with(lambda content: content["symbols"]["spot"].append("ETH/USDT")),
    "a symbol less": _with(lambda content: content["symbols"]["spot"].clear()),
    "a wrong symbol": _with(lambda content: content["symbols"]["spot"].append("../ETH")),
    "a symbol of the other market": _with(lambda content: content["symbols"]["spot"].append("ETH/USDT:USDT")),
    "a symbol that is a number": _with(lambda content: content["symbols"]["spot"].append(5)),
    "a text for a list": _with(lambda content: content["symbols"].update(spot="BTC/USDT")),
    "an unknown market": _with(lambda content: content["symbols"].update(margin=[])),
    "another version": _with(lambda content: content.update(version="v1.1")),
    "a version of another form": _with(lambda content: content.update(version="newest")),
    "another exchange": _with(lambda content: content.update(exchange_id="kraken")),
    "another hash shown": _with(lambda content: content.update(content_hash="sha256:" + "0" * 64)),
    "no hash shown": _with(lambda content: content.pop("content_hash")),
    "no symbols": _with(lambda content: content.pop("symbols")),
    "times of no symbol of it": _with(lambda content: content.update(listings={"ETH/USDT": _TIMES})),
    "times of its symbol": _with(lambda content: content.update(listings={"BTC/USDT": _TIMES})),
    "times that are a text": _with(
        lambda content: content.update(listings={"BTC/USDT": _TIMES | {"spans": [_SPAN | {"since_ms": "0"}]}})
    ),
    "a span from its end to its beginning": _with(
        lambda content: content.update(listings={"BTC/USDT": _TIMES | {"spans": [_SPAN | {"until_ms": -1}]}})
    ),
    "no span": _with(lambda content: content.update(listings={"BTC/USDT": _TIMES | {"spans": []}})),
    "a list of times": _with(lambda content: content.update(listings=[])),
    "a list": lambda _: "[]",
    "nothing": lambda _: "",
    "half of it": lambda text: text[: len(text) // 2],
    "no text at all": lambda _: "\udcff",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_file_under_a_released_name_is_one_clear_error(released, change):
    """Whatever was changed in a released file, the error is UniverseChanged and names the file."""
    path = released / "v1.0.json"
    path.write_bytes(change(path.read_text("utf-8")).encode("utf-8", "surrogateescape"))
    with pytest.raises(UniverseChanged) as refused:
        load_universe("v1.0", released)
    assert str(path) in refused.value.message
    assert refused.value.hint is not None


def test_the_order_in_the_file_is_no_change(tmp_path):
    """A released file whose symbols were only reordered means the same and is accepted."""
    path = release_universe(universe_of(["BTC", "ETH"]), tmp_path)
    path.write_text(_with(lambda content: content["symbols"]["spot"].reverse())(path.read_text()))
    assert load_universe("v1.0", tmp_path) == universe_of(["BTC", "ETH"])


@pytest.mark.parametrize("version", ["v9.9", "", "../v1.0", "released", "v1.0\n"])
def test_an_unreleased_version_lists_the_released_ones(released, version):
    """A version that was never released is unknown, even where a file of that name lies there."""
    (released / "v9.9.json").write_text(universe_of(version="v9.9").to_json())
    with pytest.raises(UnknownUniverse) as refused:
        load_universe(version, released)
    assert "v1.0" in (refused.value.hint or "")


def test_a_folder_without_releases_says_so(tmp_path):
    """Where nothing was released, the error says that there is none."""
    with pytest.raises(UnknownUniverse, match="none"):
        load_universe("v1.0", tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "{", "[]", '"v1.0"', '{"v1.0": 5}'])
def test_a_broken_list_of_releases_is_one_clear_error(released, text):
    """A released.json that cannot be read is named; it is never taken for an empty one and never written over."""
    manifest = released / "released.json"
    manifest.write_text(text)
    for use in (lambda: load_universe("v1.0", released), lambda: release_universe(universe_of(), released)):
        with pytest.raises(UniverseChanged, match=r"released\.json"):
            use()
    assert manifest.read_text() == text


def test_every_shipped_universe_is_the_released_one():
    """Every hash in the shipped released.json is the hash of the file beside it, and no file lacks one."""
    released = json.loads((SHIPPED / "released.json").read_text())
    assert {path.stem for path in SHIPPED.glob("v*.json")} == set(released)
    for version, content_hash in released.items():
        assert load_universe(version, SHIPPED).content_hash == content_hash


def test_the_first_universe_never_changes():
    """v7.3 is the 24 pairs that it was released with, the same on both markets."""
    universe = load_universe("v7.3", SHIPPED)
    assert universe.content_hash == "sha256:a1fc3384c447c21c61b57a93f5102f6d74bdea1833f1343de2428641929e4aa6"
    assert [len(universe.symbols[market]) for market in Market] == [24, 24]
    assert universe.symbols[Market.FUTURES] == tuple(f"{symbol}:USDT" for symbol in universe.symbols[Market.SPOT])
