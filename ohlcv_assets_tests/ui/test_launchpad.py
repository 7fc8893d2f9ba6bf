"""The backfill of PostgreSQL as a person does it: start and end typed into the launchpad, in headless Chromium, over real servers."""

import shutil
from collections.abc import Callable, Iterator

import psycopg
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from ohlcv_assets.instruments import Market
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.local_postgres import bars_url
from ohlcv_assets.timestamps import Interval
from ohlcv_assets_tests.fixtures.history import History, history_platform
from ohlcv_assets_tests.ui.test_ui import _BROWSERS, _QUIET

_PATIENCE_MS = 120_000
_JOB = "/locations/ohlcv_stockholm/jobs/futures_backfill_db/playground"
_CHECK = "/assets/stockholm/futures/backfilled_bars?view=checks&checkDetail=backfill_complete"
_HOURS = Interval.parse("2025-06-01T05:00Z", "2025-06-01T07:00Z")

pytestmark = [pytest.mark.ui, pytest.mark.slow]


@pytest.fixture(scope="module")
def history() -> Iterator[History]:
    """Two finished days of three symbols."""
    with history_platform(days=2) as running:
        yield running


@pytest.fixture
def page() -> Iterator[Page]:
    """A browser that remembers nothing: the launchpad opens with what was typed last."""
    browser_path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser_path is None:
        pytest.skip("no Chromium is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=_QUIET)
        yield browser.new_page(viewport={"width": 1440, "height": 900})
        browser.close()


def _launch(page: Page, history: History, start: str, end: str) -> None:
    """Type start and end into the launchpad, and launch."""
    page.goto(history.platform.ui_url + _JOB)
    page.locator(".CodeMirror").first.click(timeout=_PATIENCE_MS)
    page.keyboard.press("Control+A")
    config = f"ops:\n  stockholm__futures__backfilled_bars:\n    config:\n      start: {start}\n      end: {end}\n"
    page.keyboard.insert_text(config)
    button = page.get_by_role("button", name="Launch Run")
    expect(button).to_be_enabled(timeout=_PATIENCE_MS)
    button.click()
    page.wait_for_url("**/runs/**", timeout=_PATIENCE_MS)


def _held(history: History) -> list[tuple[object, ...]]:
    """The rows of the table itself, without what stands in the revisions."""
    with psycopg.connect(bars_url(history.settings)) as connection:
        return connection.execute("select * from bars order by market, symbol, timestamp").fetchall()


def test_the_launchpad_says_what_each_field_means(page: Page, history: History) -> None:
    """Before anything is typed the fields that are needed are named, and the schema beside the editor explains each."""
    page.goto(history.platform.ui_url + _JOB)
    expect(page.get_by_text("Missing required config entries ['end', 'start']")).to_be_visible(timeout=_PATIENCE_MS)
    expect(page.get_by_role("button", name="Launch Run")).to_be_disabled()
    page.locator(".CodeMirror-line", has_text="only_missing").click()
    expect(page.get_by_text("First moment, ISO 8601 with a zone").first).to_be_visible(timeout=_PATIENCE_MS)


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        ("2025-06-01T05:00", "2025-06-01T07:00Z", "has no time zone"),
        ("2025-06-02", "2025-06-01", "give a start before the end"),
    ],
    ids=("naive", "reversed"),
)
def test_what_cannot_be_meant_is_said_on_the_runs_page(
    page: Page, history: History, start: str, end: str, said: str
) -> None:
    """The run that was launched fails at once, and its page says what to write instead."""
    _launch(page, history, start, end)
    expect(page.get_by_text(said).first).to_be_visible(timeout=_PATIENCE_MS)


def test_a_backfill_never_overwrites_and_its_check_says_so(page: Page, history: History) -> None:
    """Launched again over a bar that was stored with another value: the bar stays, the exchange's is a revision, the page tells it."""
    _launch(page, history, "2025-06-01T05:00Z", "2025-06-01T07:00Z")
    page.goto(history.platform.ui_url + _CHECK)
    sentence = page.get_by_text("360 of 360 expected bars")
    _until(page, lambda: expect(sentence.first).to_be_visible(timeout=5_000))
    with psycopg.connect(bars_url(history.settings)) as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute("update bars set volume = volume * 2 + 1 where timestamp = %s", (_HOURS.start_ms,))
    before = _held(history)
    # A moment typed without quotes, as people do: YAML knows dates, and these must come as text.
    _launch(page, history, "2025-06-01T05:00:00Z", "2025-06-01T07:00:00Z")
    page.goto(history.platform.ui_url + _CHECK)
    revised = page.get_by_text("3 differed from what was stored and became revisions")
    _until(page, lambda: expect(revised.first).to_be_visible(timeout=5_000))
    assert _held(history) == before
    with Database(bars_url(history.settings)) as database:
        assert database.revisions(Market.FUTURES, _HOURS).height == 3


def _until(page: Page, seen: Callable[[], None]) -> None:
    """Look at the page again until a run has ended and shows there."""
    for _ in range(24):
        try:
            return seen()
        except AssertionError:
            page.reload()
    return seen()
