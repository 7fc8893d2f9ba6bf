"""The measurements of `make bench` run, on sizes that take seconds, and fail when a read gives other bars than were written."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from dagster_graphql.schema import create_schema
from graphql import parse, validate

from benchmarks import bench, download, overheads, postgres, reads, size
from benchmarks.common import WrongResult, require
from benchmarks.qa import changed
from ohlcv_assets.instruments import Market

TINY_READS = reads.Scale(symbols=2, days=3, month_days=2, day_symbols=3, times=1)
SECTIONS = {
    "reads": (lambda: reads.run(TINY_READS), ["one symbol, 3 days", "one day, 3 symbols", "`scan`", "stitched"]),
    "size": (lambda: size.run(2), ["generated, 2 symbols x 1 day"]),
    "postgres": (
        lambda: postgres.run(postgres.Scale(symbols=3, batches=2, month_symbols=2, month_days=2, times=1)),
        ["executemany", "COPY", "as of before 5 revisions", "one symbol, 2 days"],
    ),
    "overheads": (lambda: overheads.run(overheads.Scale(times=1, runs=0)), ["ohlcv --help", "the code location"]),
    "download": (
        lambda: download.run([download.Shape("tiny", 2, 1)], [Market.FUTURES], minutes=0),
        ["| tiny, limits off | ohlcv |", "| tiny, limits off | ccxt |", "| tiny, limits off | download-bulk |"],
    ),
}


def test_every_section_of_the_bench_is_tried_here():
    """A section that is added to the bench is added to this test."""
    assert set(SECTIONS) == set(bench.SECTIONS)


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_measures_and_finds_its_results_right(name, monkeypatch, tmp_path: Path):
    """Each section runs to its end on a tiny size, every answer compared, and its table has the rows that it promises."""
    monkeypatch.setenv("OHLCV_TEST_DATA", str(tmp_path))  # no recordings: they take the size section a minute
    section, promised = SECTIONS[name]
    document = bench.measured([(name, section)])
    assert document.wrong == []
    text = "\n".join(document.lines)
    assert [row for row in promised if row not in text] == []


def test_a_read_of_other_bars_than_were_written_fails_the_bench(tmp_path: Path):
    """One bar of another price than the one that was written is a wrong result, not a fast one."""
    shelf = reads.Shelf(tmp_path, 2, 1)
    shelf.fill(1)
    case = reads.Case("a day", shelf, None, 1)
    reads.beside_pandas(case, times=1)
    shelf.kept[0] = changed(shelf.kept[0], 1)
    with pytest.raises(WrongResult):
        reads.beside_pandas(case, times=1)


def test_a_wrong_result_is_said_and_the_others_are_measured():
    """A section that is wrong says so in the document, and those after it are measured."""
    document = bench.measured([("first", lambda: require(False, "some bars") or []), ("second", lambda: ["a line"])])
    assert document.wrong == ["first: not the bars that were written: some bars"]
    assert "a line" in document.lines


def test_the_predecessors_layout_holds_the_same_bars(tmp_path: Path):
    """What pandas is measured with is what the client is measured with."""
    shelf = reads.Shelf(tmp_path, 3, 2)
    shelf.fill(2)
    case = reads.Case("a day", shelf, ["T0001/USDT:USDT"], 1)
    frame = reads.read_predecessors(shelf.predecessors, case.pairs(), case.interval)
    assert frame["close"].tolist() == case.expected()["close"].to_list()
    assert set(frame["currency_pair"]) == {"T0001_USDT"}
    files = {path.relative_to(shelf.predecessors).parts[:3] for path in shelf.predecessors.rglob("*.parquet")}
    assert ("currency_pair=T0001_USDT", "year=2024", "month=6") in files
    assert pl.read_parquet(next(shelf.predecessors.rglob("*.parquet"))).width == 8


def test_dagster_knows_what_the_bench_asks_of_it():
    """The question about a run's times is one that this version of Dagster's GraphQL answers."""
    assert validate(create_schema().graphql_schema, parse(overheads.RUN_QUERY)) == []


def test_the_size_of_recorded_bars_is_measured_where_they_are(recorded_data, monkeypatch):
    """Where the recordings are, each of them has a row of its own."""
    monkeypatch.setenv("OHLCV_TEST_DATA", str(recorded_data))
    assert [name for name, _ in size.sets(1) if name.startswith("recorded")] == [
        title for _, title in size.RECORDED.values()
    ]


def test_the_command_writes_the_document_and_refuses_unknown_parts(tmp_path: Path, monkeypatch):
    """`--out` gives the same document as a file; a part that does not exist is a usage error that names those that do."""
    monkeypatch.setenv("OHLCV_TEST_DATA", str(tmp_path))
    place = tmp_path / "bench.md"
    command = [sys.executable, "-m", "benchmarks.bench"]
    done = subprocess.run([*command, "--parts", "size", "--out", str(place)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert place.read_text("utf-8") == done.stdout
    assert done.stdout.startswith("# Measured by `make bench`")
    wrong = subprocess.run([*command, "--parts", "sizes"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "reads, size, postgres, overheads, download" in wrong.stderr
