"""The UI in headless Chromium, over a demo that ran to its end. Skips, saying so, where there is no browser.

With OHLCV_SCREENSHOTS=FOLDER the pages are saved there as they were seen: `docs/images` is made this way.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

pytestmark = pytest.mark.ui

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
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        foreign: list[str] = []
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith((demo_ui, "data:", "blob:")) else foreign.append(request.url)
            ),
        )
        seen: list[str] = []

        def open_page(name: str, path: str) -> Page:
            page.goto(demo_ui + path)
            seen.append(name)
            return page

        def picture(name: str) -> None:
            page.wait_for_load_state("networkidle", timeout=_PATIENCE_MS)
            page.screenshot(path=pictures / f"{name}.png")

        open_page.picture = picture  # type: ignore[attr-defined]
        yield open_page
        browser.close()
        assert foreign == [], "the UI asked somebody else than us"


def test_the_asset_graph_shows_the_way_of_the_data(visit: Visit) -> None:
    """Three assets a market; what is streamed and what is fetched both lead to the QA, whose red check shows."""
    page = visit("graph", "/locations/ohlcv_stockholm/asset-groups/futures/lineage")
    for name in ("streamed_bars", "daily_bars", "daily_qa"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible(timeout=_PATIENCE_MS)
    expect(page.get_by_text("4 / 5 Passed")).to_be_visible(timeout=_PATIENCE_MS)
    visit.picture("asset_graph")


def test_the_partition_page_has_24_green_hours(visit: Visit) -> None:
    """Every hour of the day is materialized, and none is missing or failed."""
    page = visit("partitions", "/assets/stockholm/futures/streamed_bars?view=partitions")
    expect(page.get_by_text("Materialized (24)")).to_be_visible(timeout=_PATIENCE_MS)
    expect(page.get_by_text("Missing (0)")).to_be_visible(timeout=_PATIENCE_MS)
    expect(page.get_by_text("Failed (0)")).to_be_visible(timeout=_PATIENCE_MS)
    page = visit("hour", "/assets/stockholm/futures/streamed_bars?view=partitions&partition=2025-06-01-23%3A00")
    expect(page.get_by_text("latency_p99_s")).to_be_visible(timeout=_PATIENCE_MS)
    visit.picture("partitions")


def test_the_check_page_shows_the_numbers_and_the_differing_bar(visit: Visit) -> None:
    """A person opening the red check sees the day, the counts, and the bar with both values."""
    page = visit("check", "/assets/stockholm/futures/daily_qa?view=checks&checkDetail=streamed_equals_fetched")
    expect(page.get_by_text("value_differs")).to_be_visible(timeout=_PATIENCE_MS)
    for text in ("bars_differing", "match_pct", "2025-06-01T12:34Z", "volume", "When red:"):
        expect(page.get_by_text(text).first).to_be_visible(timeout=_PATIENCE_MS)
    visit.picture("check_red")


def test_a_green_check_says_so(visit: Visit) -> None:
    """Completeness of what was streamed is green, with the counts that prove it."""
    page = visit("green", "/assets/stockholm/futures/daily_qa?view=checks&checkDetail=streamed_complete")
    expect(page.get_by_text("bars are there")).to_be_visible(timeout=_PATIENCE_MS)
    expect(page.get_by_text("coverage_pct").first).to_be_visible(timeout=_PATIENCE_MS)
    visit.picture("check_green")


def test_the_asset_page_shows_rows_and_file(visit: Visit) -> None:
    """The daily file's page shows its rows, its place and its content hash."""
    page = visit("daily", "/assets/stockholm/futures/daily_bars?view=overview")
    for text in ("Row count", "content_hash", "bars.parquet"):
        expect(page.get_by_text(text).first).to_be_visible(timeout=_PATIENCE_MS)
    visit.picture("daily_bars")
