"""The notebook opens a stored QA result: run from its first cell to its last, over a lake that the test makes."""

from datetime import date
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from ohlcv_assets import OhlcvClient
from ohlcv_assets.errors import NoBars, UsageError
from ohlcv_assets.instruments import Market, Universe, release_universe
from ohlcv_assets.quality.publish import store_result
from ohlcv_assets.quality.results import partition_folder
from ohlcv_assets.quality.verdict import Verdict
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets_tests.builders import bars
from ohlcv_assets_tests.verdicts import START, THREE, clean_verdict, red_verdict

_NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "cross_dataset_qa_ohlcv.ipynb"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A deployment with a lake of one day."""
    universe = Universe.of("v0.1", {Market.FUTURES: list(THREE)})
    release_universe(universe, tmp_path / "universes")
    settings = Settings(home=tmp_path, universes=tmp_path / "universes", universe="v0.1", lake=None)
    lake = Lake(settings.lake_url)
    lake.write_day(Signature.daily(Market.FUTURES, universe), date.fromisoformat(START), bars(THREE, minutes=60))
    return settings


def _store(settings: Settings, verdict: Verdict, run_id: str) -> None:
    universe = Universe.of("v0.1", {Market.FUTURES: list(THREE)})
    folder = partition_folder("daily_qa", Market.FUTURES, universe, verdict.interval)
    store_result(Lake(settings.lake_url), verdict, {}, folder, run_id)


def _executed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> nbformat.NotebookNode:
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(_NOTEBOOK, as_version=4)
    return NotebookClient(notebook, timeout=180, kernel_name="python3").execute(cwd=str(settings.home))


def _output(notebook: nbformat.NotebookNode, cell: str) -> str:
    (found,) = [each for each in notebook.cells if each["id"] == cell]
    return " ".join(
        str(output.get("text") or output.get("data", {}).get("text/html") or output.get("data", {}))
        for output in found["outputs"]
    )


def test_the_notebook_shows_a_red_day(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell runs; the match, each kind of difference, the missing range and a plotted bar are in its outputs."""
    verdict = red_verdict()
    _store(settings, verdict, "first")
    notebook = _executed(settings, monkeypatch)
    assert f"{verdict.match.match_pct:.6f} % match" in _output(notebook, "open")
    for kind in ("value_differs", "duplicate_left", "only_left", "only_right"):
        assert kind in _output(notebook, "kinds")
    assert "ETH/USDT:USDT" in _output(notebook, "missing")
    assert "image/png" in _output(notebook, "plot")
    assert "interval_end" in _output(notebook, "read")


def test_the_notebook_of_a_clean_day_says_so(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing differs: every cell still runs, and there is nothing to plot."""
    _store(settings, clean_verdict(), "first")
    notebook = _executed(settings, monkeypatch)
    assert "100.000000 % match" in _output(notebook, "open")
    assert "every bar is the same on both sides" in _output(notebook, "read")


def test_the_notebook_is_kept_without_outputs() -> None:
    """What a run showed is not part of the project."""
    cells = nbformat.read(_NOTEBOOK, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def test_the_newest_result_is_the_one_that_is_read(settings: Settings) -> None:
    """A red run and a green one after it: the client gives the green one, and the red one stays where it was."""
    _store(settings, red_verdict(), "first")
    with OhlcvClient(settings) as client:
        red = client.qa_result("futures", START)
        _store(settings, clean_verdict(), "second")
        green = client.qa_result("futures", date.fromisoformat(START))
    assert (red.is_match, green.is_match) == (False, True)
    assert red.folder.endswith("run=first")
    assert green.folder.endswith("run=second")
    assert red.differences.height == red_verdict().match.differences.height
    assert Lake(settings.lake_url).get(f"{red.folder}/report.html").startswith(b"<!doctype html>")


def test_what_was_not_compared_is_one_clear_error(settings: Settings) -> None:
    """No result for this day, no such hour: said, with what to do."""
    with OhlcvClient(settings) as client:
        with pytest.raises(NoBars, match="no QA result"):
            client.qa_result("futures", "2025-06-02")
        with pytest.raises(UsageError, match="hours 0 to 23"):
            client.qa_result("futures", START, hour=24)
