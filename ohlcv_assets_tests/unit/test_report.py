"""The report on a verdict: one page, which says what was found, loads nothing and shows no one's markup."""

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from matplotlib.image import imread

from ohlcv_assets.instruments import Market
from ohlcv_assets.quality import heat_map as pictures
from ohlcv_assets.quality.expectations import validate_sides
from ohlcv_assets.quality.explained import nothing_explained
from ohlcv_assets.quality.heat_map import LIMIT_BYTES, Cell, cells, heat_map
from ohlcv_assets.quality.report.findings import (
    MINUTES_AROUND,
    NEIGHBOURS_SCHEMA,
    SHOWN_BARS,
    by_symbol,
    differing_bars,
    neighbours,
)
from ohlcv_assets.quality.report.pages import match_page, percent, soundness_page
from ohlcv_assets.quality.verdict import compare
from ohlcv_assets.timestamps import DAY_MS, Interval
from ohlcv_assets_tests.builders import bars, corrupted
from ohlcv_assets_tests.verdicts import HOUR, THREE, by_websocket, clean_verdict, red_verdict, verdict_of

_NOW = datetime(2025, 6, 2, 10, 30, tzinfo=UTC)


class Page(HTMLParser):
    """What a page would load, its tags that are never closed or opened, and its text."""

    _VOID = ("meta", "link", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.resources: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        """Note what it would load."""
        self.tags.append(tag)
        self.resources += [
            value
            for name, value in attrs
            if name in ("src", "href", "srcset", "data", "action", "xlink:href") and value
        ]
        if tag not in self._VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Note it: it is closed already."""
        self.tags.append(tag)

    def handle_endtag(self, tag):
        """It closes the one that was opened last."""
        assert self._open.pop() == tag

    def handle_data(self, data):
        """Note the words."""
        self.words.append(data)

    @property
    def text(self) -> str:
        """The words that a person reads, without the style."""
        return re.sub(r"\s+", " ", " ".join(self.words))


def _addresses(text: str) -> list[str]:
    """What could be an address on a page, its pictures aside: they are letters, and any letters."""
    return re.findall(r"https?:|//[a-z]|@import|url\(", re.sub(r'data:[^"]*', "", text))


def _page(verdict) -> str:
    return match_page(verdict, heat_map(verdict), _NOW)


@pytest.fixture(scope="module")
def red():
    """A verdict with something of every kind."""
    return red_verdict()


@pytest.mark.parametrize("make", [clean_verdict, red_verdict])
def test_the_page_loads_nothing_from_anywhere(make) -> None:
    """No script, no frame, no address: what it shows is in it, and its policy forbids the rest."""
    text = _page(make())
    page = Page(text)
    assert not {"script", "iframe", "object", "embed", "base"} & set(page.tags)
    assert all(address.startswith("data:") for address in page.resources)
    assert not _addresses(text)
    assert "default-src 'none'" in text


def test_the_page_of_a_clean_hour_says_100_percent() -> None:
    """Everything equal: the verdict says so, no bar is drawn, and no symbol is listed as spoiled."""
    page = Page(_page(clean_verdict()))
    assert "100 %: every expected bar is there, once, and the same on both sides" in page.text
    assert "Every symbol is complete and equal on both sides." in page.text
    assert "svg" not in page.tags


def test_the_page_of_a_red_hour_names_everything(red) -> None:
    """The verdict, both values in all their digits, every kind of fault, the ranges, and a drawing for each."""
    page = Page(_page(red))
    wrong, right = red.streamed["volume"][7], red.fetched["volume"][7]
    for words in (
        f"volume {wrong} {right}",
        "BTC/USDT:USDT 2025-06-01T00:07Z",
        "streamed more than once: rows 2 1",
        "2025-06-01T00:10Z, and the 2 minutes after it",
        "only streamed: rows 1 0",
        "2025-06-01T00:40Z 2025-06-01T00:41Z 1 SOL/USDT:USDT 1",
    ):
        assert words in page.text, words
    assert page.tags.count("svg") == len(differing_bars(red)) == 4
    assert page.tags.count("img") == 1


def test_what_could_not_be_had_is_shown_and_is_no_fault() -> None:
    """A proven halt: the page is green, says how many minutes it was, and the picture has them in grey."""
    whole = bars(THREE, minutes=60).filter(pl.col("timestamp") % 3_600_000 != 600_000)
    verdict = verdict_of(whole, whole)
    halted = verdict.both_lack().select("symbol", "timestamp", state=pl.lit("halted"))
    page = Page(match_page(verdict, heat_map(verdict, halted), _NOW, halted))
    assert "100 %: every bar that could be had is there" in page.text
    assert "3 could not be had: 3 while the exchange stood still." in page.text
    assert "Missing from" not in page.text
    assert (cells(verdict, halted)[:, 10] == Cell.EXPLAINED).all()
    unproven = Page(_page(verdict))
    assert "but 3 are on neither side" in unproven.text
    assert "Missing from" in unproven.text


def test_a_symbols_name_is_no_markup() -> None:
    """Whatever a symbol is called, it stands on the page as text."""
    name = "<script>alert(1)</script>&\"'"
    whole = bars(minutes=60).with_columns(symbol=pl.lit(name)).unique("timestamp", maintain_order=True)
    database = SimpleNamespace(read=lambda *_, **__: by_websocket(whole))
    verdict = compare(database, corrupted(whole, 3, "close", 1.0), [name], Market.FUTURES, HOUR)
    page = Page(_page(verdict))
    assert "script" not in page.tags
    assert name in page.text


def test_the_neighbours_of_each_shown_bar_are_on_both_sides(red) -> None:
    """Six minutes before and after the bar, as far as there are any, from each side."""
    found = neighbours(red)
    assert dict(found.schema) == NEIGHBOURS_SCHEMA
    first = differing_bars(red)[0]
    assert (first.symbol, first.columns) == ("BTC/USDT:USDT", [])  # what stands twice comes first
    volume = next(bar for bar in differing_bars(red) if bar.columns == ["volume"])
    minutes = volume.around.group_by("side").len().sort("side").rows()
    assert minutes == [("fetched", 2 * MINUTES_AROUND + 1), ("streamed", 2 * MINUTES_AROUND + 1)]


def test_a_report_is_bounded() -> None:
    """Thousands of differing bars: fifty are drawn, the page says how many there are, and stays below a megabyte."""
    whole = bars(THREE, minutes=1440)
    day = Interval(HOUR.start_ms, HOUR.start_ms + DAY_MS)
    verdict = verdict_of(whole, whole.with_columns(pl.col("volume") * 2, pl.col("quote_volume") * 2), interval=day)
    text = _page(verdict)
    assert Page(text).tags.count("svg") == SHOWN_BARS
    assert "50 of 4,320" in Page(text).text
    assert len(text) < 1_000_000


def test_the_table_by_symbol_adds_up(red) -> None:
    """Each symbol's bars are in one column each, the worst symbol first; together they are the match's counts."""
    table = by_symbol(red, nothing_explained())
    assert table["symbol"].to_list() == ["ETH/USDT:USDT", "BTC/USDT:USDT", "SOL/USDT:USDT"]
    sums = table.select(pl.sum("equal", "differing", "only_streamed", "only_fetched", "duplicate", "missing_on_both"))
    assert sums.row(0) == (red.match.equal, 1, 1, 3, 1, 1)
    assert red.match.equal + 1 + 1 + 3 + 1 + 1 == 180


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1e300, None])
@pytest.mark.parametrize("column", ["close", "volume"])
def test_any_value_can_be_drawn(column: str, value: float | None) -> None:
    """What no price or amount can be is shown in words, and breaks no drawing."""
    whole = bars(THREE, minutes=60)
    page = Page(_page(verdict_of(corrupted(whole, 30, column, value), whole)))
    assert page.tags.count("svg") == 1
    assert "null" in page.text or str(value) in page.text or f"{value:.0f}" in page.text


@pytest.mark.parametrize("timestamp", [1_748_736_000, 1_748_736_000_000_000, 1_748_736_000_001, None])
def test_a_time_in_the_wrong_unit_breaks_no_page(timestamp: int | None) -> None:
    """Seconds, microseconds, half a minute, nothing: the page is made, and the bar is named."""
    whole = bars(THREE, minutes=60)
    assert "SOL/USDT:USDT" in _page(verdict_of(corrupted(whole, 130, "timestamp", timestamp), whole))


def test_nothing_at_all_can_be_reported() -> None:
    """Both sides empty: the page says that this is no proof."""
    nothing = bars(THREE, minutes=60).clear()
    page = Page(_page(verdict_of(nothing, nothing)))
    assert "which is no proof" in page.text


def test_100_percent_is_never_rounded_up_to() -> None:
    """One bar of a million that differs is not 100 %."""
    assert percent(100.0) == "100 %"
    assert percent(100.0 * 9_999_999 / 10_000_000) == "99.9999 %"


# The heat map ---------------------------------------------------------------------------------------------------------


def test_every_minute_has_its_state_in_the_picture(red) -> None:
    """Each planted fault is in its cell, and every other cell is equal."""
    grid = cells(red)
    assert grid.shape == (3, 60)
    planted = {
        (0, 7): Cell.DIFFERING,
        (0, 20): Cell.DUPLICATE,
        **{(1, minute): Cell.ONLY_FETCHED for minute in (10, 11, 12)},
        (2, 30): Cell.ONLY_STREAMED,
        (2, 40): Cell.MISSING,
    }
    expected = np.zeros((3, 60), dtype=np.int8)
    for place, cell in planted.items():
        expected[place] = cell
    assert np.array_equal(grid, expected)


def test_the_picture_shows_the_fault(red) -> None:
    """The colour of a differing bar is in the red picture and not in the green one."""

    def has(verdict, cell: Cell) -> bool:
        pixels = (imread(BytesIO(heat_map(verdict)))[:, :, :3] * 255).round()
        code = pictures._COLOURS[cell][0]
        wanted = [int(code[at : at + 2], 16) for at in (1, 3, 5)]
        return bool((np.abs(pixels - wanted).sum(axis=2) < 3).any())

    assert has(red, Cell.DIFFERING)
    assert has(red, Cell.EQUAL)
    assert not has(clean_verdict(), Cell.DIFFERING)


def test_the_picture_of_the_worst_day_is_small_enough() -> None:
    """Hundreds of symbols, every quarter of an hour in another state: still below 100,000 bytes."""
    names = [f"T{number:03}/USDT:USDT" for number in range(400)]
    whole = bars(names, minutes=1440)
    random = np.random.default_rng(7)
    left = whole.filter(pl.Series(random.random(whole.height) > 0.02))
    right = whole.filter(pl.Series(random.random(whole.height) > 0.02))
    day = Interval(HOUR.start_ms, HOUR.start_ms + DAY_MS)
    assert len(heat_map(verdict_of(left, right, names, day))) <= LIMIT_BYTES


def test_a_name_of_another_script_is_drawn() -> None:
    """A symbol in letters that the font does not have, or with a dollar in it, ends no run."""
    names = ["币安人生/USDT:USDT", "A$B$/USDT:USDT"]
    whole = bars(["BTC/USDT:USDT", "ETH/USDT:USDT"], minutes=60).with_columns(
        pl.col("symbol").replace(dict(zip(("BTC/USDT:USDT", "ETH/USDT:USDT"), names, strict=True)))
    )
    database = SimpleNamespace(read=lambda *_, **__: by_websocket(whole))
    assert heat_map(compare(database, whole, names, Market.FUTURES, HOUR))


# Great Expectations' page ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [False, True])
def test_the_page_of_soundness_says_its_verdict_and_loads_nothing(broken: bool) -> None:
    """Every invariant with both verdicts, the broken bar by its name; nothing from outside."""
    whole = bars(THREE, minutes=60)
    verdict = verdict_of(corrupted(whole, 65, "low", -1.0) if broken else whole, whole)
    text = soundness_page(verdict, validate_sides(verdict), _NOW)
    page = Page(text)
    assert not page.resources or all(address.startswith("data:") for address in page.resources)
    assert not _addresses(text)
    assert "script" not in page.tags
    assert "polars and Great Expectations agree." in page.text
    assert ("1 broken invariant" in page.text) is broken
    assert ("Every bar is sound" in page.text) is not broken
    assert ("ETH/USDT:USDT 2025-06-01T00:05Z low -1.0" in page.text) is broken
