"""`make bench-ui-year`: a year of days of both markets in the UI, looked at with a real browser; one Markdown table.

Lives here: the days downloaded by two real backfills, the comparisons filled in by runs of year_filler.py, and seconds until each
page shows what it is for. Does not: a judgement beyond errors: exit code 1 when a page does not show it, or logs an error.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from playwright.sync_api import Page, Response, expect, sync_playwright

from benchmarks.backfill import Stage, stage
from benchmarks.common import machine
from ohlcv_assets.errors import Refused
from ohlcv_assets.instruments import Market

_BROWSER = "/usr/bin/chromium"
_QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
_PATIENCE_MS = 120_000
_MOST_S = 3600.0


@dataclass
class Look:
    """A browser that notes what its pages loaded and complained about."""

    page: Page
    pictures: Path | None
    rows: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    _bytes: int = 0
    _slowest: tuple[float, str] = (0.0, "")

    def __post_init__(self) -> None:
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)[:200]))
        self.page.on("response", self._weigh)

    def at(self, name: str, action: Callable[[], Any], shown: Callable[[], Any]) -> None:
        """Do something, and time how long it takes until what it is for is shown."""
        self._bytes, self._slowest, before = 0, (0.0, ""), len(self.errors)
        began_s = time.monotonic()
        action()
        try:
            shown()
        except AssertionError as error:
            self.errors.append(f"{name}: {str(error)[:200]}")
        shown_s = time.monotonic() - began_s
        self.page.wait_for_load_state("networkidle", timeout=_PATIENCE_MS)
        if self.pictures:
            self.page.wait_for_timeout(1000)
            self.page.screenshot(path=self.pictures / f"{name.replace(' ', '_')}.png")
        slowest_s, query = self._slowest
        self.rows.append(
            f"| {name} | {shown_s:.1f} | {self._bytes / 1000:,.0f} | {query} {slowest_s:.1f} | {len(self.errors) - before} |"
        )

    def _note(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(message.text[:200])

    def _weigh(self, response: Response) -> None:
        if "/graphql" not in response.url:
            return
        timing = response.request.timing
        taken_s = max(timing["responseStart"] - timing["requestStart"], 0) / 1000
        query = str((response.request.post_data_json or {}).get("operationName"))
        self._slowest = max(self._slowest, (taken_s, query))
        self._bytes += int(response.headers.get("content-length", 0))


def main(days: int = 365, symbols: int = 2, pictures: Path | None = None, keep: bool = False) -> None:
    """Fill, look, and print the table."""
    with stage(days, symbols, module="ohlcv_assets.definitions") as scene:
        filled = _fill(scene)
        look = _look(scene, pictures)
        if keep:
            typer.echo(f"UI: {scene.platform.ui_url}; press Enter to end")
            sys.stdin.readline()
    for line in filled:
        typer.echo(line)
    typer.echo(
        "\n| page | seconds until shown | GraphQL, kB | slowest query, seconds | console errors |\n|---|---:|---:|---|---:|"
    )
    for row in look.rows:
        typer.echo(row)
    for error in look.errors:
        typer.echo(f"error: {error}")
    typer.echo(f"\n{days} days a market; {', '.join(machine())}")
    sys.exit(bool(look.errors))


def _fill(scene: Stage) -> list[str]:
    scene.exchange.set_speed(600.0)
    began_s = time.monotonic()
    backfills = [scene.backfills.launch([scene.asset(market, "daily_bars")], scene.keys()) for market in Market]
    found = scene.backfills.wait(*backfills, timeout_s=_MOST_S)
    if any(progress.materialized != scene.days for progress in found):
        raise Refused(f"the backfills ended as {found}", hint="see the logs of their runs")
    runs = [run for backfill in backfills for run in scene.backfills.runs(backfill)]
    lines = [f"two backfills of {scene.days} days: {time.monotonic() - began_s:.0f} s, {len(runs)} runs"]
    began_s = time.monotonic()
    keys = scene.keys()
    command = [sys.executable, "-m", "benchmarks.year_filler", keys[0], keys[-1]]
    subprocess.run(command, env=scene.platform.environment(), check=True, capture_output=True)
    return [*lines, f"daily_qa and ledger filled in, with all their checks: {time.monotonic() - began_s:.0f} s"]


def _look(scene: Stage, pictures: Path | None) -> Look:
    url, region = scene.platform.ui_url, scene.platform.settings.region
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_BROWSER, args=_QUIET)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        look = Look(page, pictures)

        def visit(name: str, path: str, text: str) -> None:
            shown = page.get_by_text(text).first
            look.at(name, lambda: page.goto(url + path), lambda: expect(shown).to_be_visible(timeout=_PATIENCE_MS))

        bars, qa = f"/assets/{region}/spot/daily_bars", f"/assets/{region}/spot/daily_qa"
        visit("first page", "/assets", "Catalog")
        visit("asset overview", f"{bars}?view=overview", "content_hash")
        visit("asset partitions", f"{bars}?view=partitions", f"Materialized ({scene.days})")
        visit("asset one day", f"{bars}?view=partitions&partition={scene.keys()[-1]}", "content_hash")
        visit("asset events", f"{bars}?view=events", "content_hash")
        visit("qa partitions", f"{qa}?view=partitions", f"Materialized ({scene.days})")
        visit("qa checks", f"{qa}?view=checks", "streamed_equals_fetched")
        visit("qa one check", f"{qa}?view=checks&checkDetail=streamed_complete", "bars_expected")
        visit("ledger checks", f"/assets/{region}/spot/ledger?view=checks", "nothing_unexplained")
        visit("lineage", f"/locations/ohlcv_{region}/asset-groups/spot/lineage", "Passed")
        visit("backfills", "/runs?view=backfills", "Success")
        _launch(look, url + bars, scene)
        browser.close()
    return look


def _launch(look: Look, url: str, scene: Stage) -> None:
    """The dialog of a range, and the backfill that it starts."""
    page = look.page
    page.goto(f"{url}?view=partitions")
    button = page.get_by_role("button", name="Materialize").first
    expect(button).to_be_enabled(timeout=_PATIENCE_MS)
    dialog = page.get_by_text("Launch runs to materialize").first
    look.at("dialog of a range", button.click, lambda: expect(dialog).to_be_visible(timeout=_PATIENCE_MS))
    ready = page.get_by_role("button", name="Launch backfill")

    def choose() -> None:
        page.get_by_role("button", name="All", exact=True).last.click()

    look.at("dialog, all days chosen", choose, lambda: expect(ready).to_be_enabled(timeout=_PATIENCE_MS))
    started = page.get_by_text(f"{scene.days}").first
    look.at(
        "backfill page",
        lambda: _open_backfill(page, scene),
        lambda: expect(started).to_be_visible(timeout=_PATIENCE_MS),
    )


def _open_backfill(page: Page, scene: Stage) -> None:
    """The page of the first backfill."""
    found = scene.platform.api.ask(
        "{ partitionBackfillsOrError(limit: 10) { ... on PartitionBackfills { results { id } } } }"
    )
    backfill = found["partitionBackfillsOrError"]["results"][-1]["id"]
    page.goto(f"{scene.platform.ui_url}/runs/b/{backfill}")


if __name__ == "__main__":
    typer.run(main)
