"""The demo's promise, and the UI over what it left: one real day, equal on both sides, one planted error named and seen.

Both are in one file, so that the demo runs once also when the suite runs in several processes. The UI is driven in headless
Chromium; those tests skip, saying so, where there is no browser. With OHLCV_SCREENSHOTS=FOLDER the pages are saved there as
they were seen: `docs/images` is made this way.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from ohlcv_assets.bars import KEY, VALUES
from ohlcv_assets.instruments import Market, load_universe
from ohlcv_assets.orchestration.checks import CHECKS
from ohlcv_assets.platform.demo import UNIVERSE
from ohlcv_assets.platform.demo_home import reopened_settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.storage.local_postgres import LocalPostgres, bars_url
from ohlcv_assets.timestamps import Interval
from ohlcv_assets_tests.fixtures.demo import DAY, FinishedDemo

_DAY = Interval.of_day(DAY)


def _truth(demo: FinishedDemo, market: Market) -> pl.DataFrame:
    inside = pl.col("timestamp").is_between(_DAY.start_ms, _DAY.end_ms, closed="left")
    return demo.truth[market].filter(inside).select(*KEY, *VALUES).sort("symbol", "timestamp")


def test_the_demo_ends_well_and_says_100_percent(finished_demo: FinishedDemo) -> None:
    """It exits 0, and its table shows every bar of the day on both sides and none that differs."""
    assert finished_demo.exit_code == 0, finished_demo.output
    rows = dict(re.findall(r"^ *(\S.*?)  +(\S.*?)(?:  .*)?$", finished_demo.output, re.MULTILINE))
    expected = f"{_truth(finished_demo, Market.FUTURES).height:,}"
    for row in ("bars streamed into PostgreSQL", "bars fetched by REST into the lake", "bars matching"):
        assert rows[row] == expected
    assert rows["match"] == "100 %"
    assert rows["bars differing"] == "0"
    assert rows["bars missing, streamed / fetched"] == "0 / 0"
    assert not set(finished_demo.output) & set("│┃━─┏╇\x1b"), "what is no terminal is drawn nothing"


def test_the_corrupted_bar_is_named(finished_demo: FinishedDemo) -> None:
    """After one bar was changed behind the platform's back, the check is red and names exactly that bar."""
    assert "T12:34Z: the check is red and names exactly this bar" in finished_demo.output


def test_the_live_hour_came_by_websocket(finished_demo: FinishedDemo) -> None:
    """The hour that is streamed live is streamed: bars came as closed events, however busy the machine is."""
    live = int(re.search(r"by WebSocket\s+([\d,]+)", finished_demo.output)[1].replace(",", ""))
    assert live > 0.1 * _truth(finished_demo, Market.FUTURES)["symbol"].n_unique() * 60


@pytest.mark.parametrize("market", list(Market), ids=str)
def test_every_stored_value_is_the_exchanges_bit_for_bit(finished_demo: FinishedDemo, market: Market) -> None:
    """Both stores hold every bar of the source, with the same doubles; the one corrupted bar aside."""
    if finished_demo.recorded and market is Market.SPOT:
        pytest.skip("the recorded day is of the futures market")
    settings = reopened_settings(finished_demo.home)
    truth = _truth(finished_demo, market)
    daily = Lake(settings.lake_url).read_day(
        Signature.daily(market, load_universe(UNIVERSE, settings.universes)), DAY
    )
    assert daily.select(*KEY, *VALUES).equals(truth)
    running = LocalPostgres(finished_demo.home).status().running
    with Database(bars_url(settings)) as database:
        streamed = database.read(market, _DAY).select(*KEY, *VALUES)
    if not running:
        LocalPostgres(finished_demo.home).down()
    same = streamed.join(truth, on=[*KEY, *VALUES], how="inner").height
    assert streamed.height == truth.height
    assert same == truth.height - (1 if market is finished_demo.market else 0)


def test_the_demo_leaves_no_server_behind(finished_demo: FinishedDemo) -> None:
    """What it started has ended with it."""
    assert not finished_demo.left_running


_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
          "--disable-component-update", "--disable-sync"]  # fmt: skip
_PATIENCE_MS = 60_000

Visit = Callable[[str, str], Page]


@pytest.fixture(scope="module")
def visit(demo_ui: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    """Opens a page of the UI; the page is also saved as a picture when the next one is opened."""
    browser_path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser_path is None:
        pytest.skip("no Chromium is installed")
    pictures = Path(os.environ.get("OHLCV_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=_QUIET)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        foreign: list[str] = []
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith((demo_ui, "data:", "blob:", "file:")) else foreign.append(request.url)
            ),
        )
        seen: list[str] = []

        def open_page(name: str, path: str) -> Page:
            page.goto(demo_ui + path)
            seen.append(name)
            return page

        def picture(name: str, *, whole: bool = False) -> None:
            if not whole:  # a report asks for nothing: there is nothing to wait for
                page.wait_for_load_state("networkidle", timeout=_PATIENCE_MS)
            page.screenshot(path=pictures / f"{name}.png", full_page=whole)

        open_page.picture = picture  # type: ignore[attr-defined]
        yield open_page
        browser.close()
        assert foreign == [], "the UI asked somebody else than us"


@pytest.mark.ui
def test_the_asset_graph_shows_the_way_of_the_data(visit: Visit) -> None:
    """Three assets a market; what is streamed and what is fetched both lead to the QA, whose red check shows."""
    page = visit("graph", "/locations/ohlcv_stockholm/asset-groups/futures/lineage")
    for name in ("streamed_bars", "daily_bars", "daily_qa"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible(timeout=_PATIENCE_MS)
    expect(page.get_by_text(f"{len(CHECKS) - 1} / {len(CHECKS)} Passed")).to_be_visible(timeout=_PATIENCE_MS)
    visit.picture("asset_graph")


@pytest.mark.ui
def test_the_partition_page_has_24_green_hours(visit: Visit) -> None:
    """Every hour of the day is materialized, and none is missing or failed."""
    page = visit("partitions", "/assets/stockholm/futures/streamed_bars?view=partitions")
    expect(page.get_by_text("Materialized (24)")).to_be_visible(timeout=_PATIENCE_MS)
    expect(page.get_by_text("Missing (0)")).to_be_visible(timeout=_PATIENCE_MS)
    expect(page.get_by_text("Failed (0)")).to_be_visible(timeout=_PATIENCE_MS)
    page = visit("hour", "/assets/stockholm/futures/streamed_bars?view=partitions&partition=2025-06-01-23%3A00")
    expect(page.get_by_text("latency_p99_s")).to_be_visible(timeout=_PATIENCE_MS)
    visit.picture("partitions")


@pytest.mark.ui
def test_the_check_page_shows_the_numbers_and_the_differing_bar(visit: Visit) -> None:
    """A person opening the red check sees the day, the counts, and the bar with both values."""
    page = visit("check", "/assets/stockholm/futures/daily_qa?view=checks&checkDetail=streamed_equals_fetched")
    expect(page.get_by_text("value_differs")).to_be_visible(timeout=_PATIENCE_MS)
    for text in ("bars_differing", "match_pct", "2025-06-01T12:34Z", "volume", "When red:"):
        expect(page.get_by_text(text).first).to_be_visible(timeout=_PATIENCE_MS)
    visit.picture("check_red")


@pytest.mark.ui
def test_a_green_check_says_so(visit: Visit) -> None:
    """Completeness of what was streamed is green, with the counts that prove it."""
    page = visit("green", "/assets/stockholm/futures/daily_qa?view=checks&checkDetail=streamed_complete")
    expect(page.get_by_text("bars are there")).to_be_visible(timeout=_PATIENCE_MS)
    expect(page.get_by_text("coverage_pct").first).to_be_visible(timeout=_PATIENCE_MS)
    visit.picture("check_green")


@pytest.mark.ui
def test_the_asset_page_shows_rows_and_file(visit: Visit) -> None:
    """The daily file's page shows its rows, its place and its content hash."""
    page = visit("daily", "/assets/stockholm/futures/daily_bars?view=overview")
    for text in ("Row count", "content_hash", "bars.parquet"):
        expect(page.get_by_text(text).first).to_be_visible(timeout=_PATIENCE_MS)
    visit.picture("daily_bars")


@pytest.mark.ui
def test_the_report_shows_the_differing_bar_among_its_neighbours(visit: Visit, finished_demo: FinishedDemo) -> None:
    """The page that the red check leads to: what differs, by how much, drawn; complete in itself."""
    (report,) = [
        page
        for page in finished_demo.home.glob("lake/**/daily_qa/futures/**/report.html")
        if "1 of " in page.read_text("utf-8")
    ]
    page = visit("report", "")
    page.goto(report.as_uri())
    expect(page.get_by_text("2025-06-01T12:34Z", exact=True)).to_be_visible(timeout=_PATIENCE_MS)
    expect(page.locator("article svg")).to_be_visible(timeout=_PATIENCE_MS)
    assert page.evaluate("document.querySelector('figure img').naturalWidth") > 500
    visit.picture("report", whole=True)


@pytest.mark.ui
def test_the_asset_of_the_comparison_shows_its_numbers(visit: Visit) -> None:
    """The QA asset's page has the numbers that are plotted, and the way to the report and the picture."""
    page = visit("daily_qa", "/assets/stockholm/futures/daily_qa?view=overview")
    for text in ("match_pct", "bars_differing", "report.html", "[Show Markdown]"):
        expect(page.get_by_text(text).first).to_be_visible(timeout=_PATIENCE_MS)
    visit.picture("daily_qa")
