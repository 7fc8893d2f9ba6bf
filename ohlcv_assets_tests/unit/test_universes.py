"""Promises of universes: a version's name means the same set of symbols for ever."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_assets.errors import UniverseChanged, UnknownSymbol, UnknownUniverse
from ohlcv_assets.instruments import Market, Universe, load_universe, release_universe

SHIPPED = Path(__file__).resolve().parents[2] / "universes"
BASES = ["BTC", "ETH", "SOL", "XRP", "ADA", "币安人生"]
some_bases = st.lists(st.sampled_from(BASES), max_size=12)


def universe_of(spot=("BTC",), futures=("BTC",), version="v1.0"):
    """A universe of USDT pairs of these bases."""
    return Universe.of(
        version,
        {Market.SPOT: [f"{base}/USDT" for base in spot], Market.FUTURES: [f"{base}/USDT:USDT" for base in futures]},
    )


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


def _with(change):
    """A function that changes the parsed content of a universe file."""

    def edit(text):
        content = json.loads(text)
        change(content)
        return json.dumps(content)

    return edit


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
