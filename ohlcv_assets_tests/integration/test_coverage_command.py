"""`ohlcv coverage` as a person or a program uses it: tables, maps, files, JSON, exit codes, over a real lake and a real PostgreSQL."""

import json
import os
import pty
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from pathlib import Path

import polars as pl
import pytest
from matplotlib.image import imread

from ohlcv_assets.bars import Channel
from ohlcv_assets.cli.coverage_facts import Coverage
from ohlcv_assets.cli.coverage_map import COLOURS, Level, grid
from ohlcv_assets.cli.coverage_page import page
from ohlcv_assets.client.verified import RANGES
from ohlcv_assets.instruments import Market
from ohlcv_assets.settings import read_settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.lake import Signature
from ohlcv_assets.storage.signature import SPEAKS_OF, ledger_key
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, Interval, parse_time
from ohlcv_assets_tests.builders import bars
from ohlcv_assets_tests.fixtures.program import SPOT, Program
from ohlcv_assets_tests.unit.test_report import Page

BTC, ETH, SOL = SPOT
START_MS = parse_time("2025-06-01")
_MARKET = ("--market", "spot")
_WEEK = (*_MARKET, "--start", "2025-06-01", "--end", "2025-06-08")
#: Of the second day ETH lacks these five minutes; SOL is not there after the third; the fourth day is in no store.
HOLE = Interval(START_MS + DAY_MS + 60 * MINUTE_MS, START_MS + DAY_MS + 65 * MINUTE_MS)


@pytest.fixture
def stored(program: Program) -> Program:
    """A week of three symbols in the lake, with holes."""
    signature = Signature.daily(Market.SPOT, program.universe)
    for number in (0, 1, 2, 4, 5, 6):
        start_ms = START_MS + number * DAY_MS
        day = bars(SPOT, start=f"2025-06-0{1 + number}", minutes=1440)
        hole = (pl.col("symbol") == ETH) & pl.col("timestamp").is_in(list(HOLE.minutes))
        gone = (pl.col("symbol") == SOL) & (pl.lit(start_ms) > START_MS + 2 * DAY_MS)
        program.lake.write_day(signature, date(2025, 6, 1 + number), day.filter(~hole & ~gone))
    return program


@pytest.fixture
def alone(stored: Program, monkeypatch: pytest.MonkeyPatch) -> Program:
    """The same without any database."""
    monkeypatch.delenv("OHLCV_DATABASE_URL")
    return stored


@pytest.fixture
def with_database(stored: Program, monkeypatch: pytest.MonkeyPatch, database_url: str, database: Database) -> Program:
    """The same with a database, which holds four of the five minutes, and one hour of the day that the lake does not have."""
    monkeypatch.setenv("OHLCV_DATABASE_URL", database_url)
    late = bars([ETH], start="2025-06-02T01:01Z", minutes=4)
    hour = bars([BTC], start="2025-06-04", minutes=60)
    for some in (late, hour):
        database.record(some, channel=Channel.WEBSOCKET, run_id="a")
    return stored


def tell_ledger(program: Program) -> None:
    """The ledger of the second day: confirmed, but for a halt of ETH."""
    end_ms = START_MS + 2 * DAY_MS
    rows = [(name, START_MS + DAY_MS, end_ms, "confirmed", None, None) for name in (BTC, SOL)]
    rows += [
        (ETH, START_MS + DAY_MS, HOLE.start_ms, "confirmed", None, None),
        (ETH, HOLE.start_ms, HOLE.end_ms, "halted", "exchange_halt", "{}"),
        (ETH, HOLE.end_ms, end_ms, "confirmed", None, None),
    ]
    content = BytesIO()
    pl.DataFrame(rows, schema=RANGES, orient="row").write_parquet(content, metadata={SPEAKS_OF: ""})
    program.lake.put(ledger_key(Market.SPOT, program.universe, date(2025, 6, 2)), content.getvalue())


def test_a_whole_day_is_no_finding(alone: Program) -> None:
    """Where every expected minute is there the exit code is 0, and the table says 100 %."""
    ended = alone.run("coverage", *_MARKET, "--start", "2025-06-01", "--end", "2025-06-02")
    assert ended.code == 0
    assert re.search(r"^all +4,320 +4,320 +- +0 +100 % +2025-06-01 +2025-06-01 +- +-$", ended.out, re.MULTILINE)
    assert "each of 4,320 expected bars is there" in ended.out


def test_what_is_missing_is_a_finding_and_the_worst_comes_first(alone: Program) -> None:
    """The table is plain, sorted by what is missing, and has the sums at its foot; a day that is in no store is missing."""
    ended = alone.run("coverage", *_WEEK)
    assert ended.code == 1
    rows = [line.split() for line in ended.out.splitlines()]
    table = {row[0]: row[1:5] for row in rows if row and row[0] in {*SPOT, "all"} and "," in row[1]}
    assert list(table) == [SOL, ETH, BTC, "all"]
    assert table[SOL] == ["10,080", "4,320", "-", "5,760"]
    assert table[ETH] == ["10,080", "8,635", "-", "1,445"]
    assert table["all"] == ["30,240", "21,595", "-", "8,645"]
    assert not set(ended.out) & set("│┃━─┏╇\x1b")
    assert ended.err.count("no database") == 1


def test_the_map_reads_without_colour(alone: Program) -> None:
    """In a pipe a character a day says all, how many tenths, or nothing, and the line below what they mean."""
    out = alone.run("coverage", *_WEEK).out
    drawn = {line.split()[0]: line.split(" ", 1)[1].strip() for line in out.splitlines() if line.startswith(SPOT)}
    assert drawn[BTC] == "###.###"
    assert drawn[ETH] == "#9#.###"
    assert drawn[SOL] == "###...."
    assert "#  all" in out
    assert ".  nothing" in out
    assert "a column is a day" in out


def test_many_symbols_are_cut_and_said_so(alone: Program) -> None:
    """--top shows the worst, and says how many are not shown and whether they are whole."""
    out = alone.run("coverage", *_WEEK, "--top", "1").out
    assert "and 2 more symbols, 2 of them not whole: --top 3 shows all" in out
    assert f"\n{BTC}" not in out
    assert "30,240" in out


def test_what_either_store_has_is_there(with_database: Program) -> None:
    """With a database a minute is missing only when neither store has it, and each can be looked at alone."""
    both = json.loads(with_database.run("coverage", *_WEEK, "--json").out)
    assert (both["daily"], both["streamed"], both["missing"]) == (21_595, 64, 8_645 - 64)
    daily = json.loads(with_database.run("coverage", *_WEEK, "--source", "daily", "--json").out)
    assert (daily["daily"], daily["streamed"], daily["missing"]) == (21_595, None, 8_645)
    streamed = json.loads(with_database.run("coverage", *_WEEK, "--source", "streamed", "--json").out)
    assert (streamed["daily"], streamed["streamed"], streamed["missing"]) == (None, 64, 30_240 - 64)


def test_json_has_every_symbol_and_day(alone: Program) -> None:
    """Machines get the sums, each symbol, each of its days and the states of the ledger, under names that stay."""
    tell_ledger(alone)
    ended = alone.run("coverage", *_WEEK, "--json", "--top", "1")
    told = json.loads(ended.out)
    assert (ended.code, told["market"], told["universe"], told["source"]) == (1, "spot", "v0.1", "both")
    assert (told["start"], told["end"], told["has_database"]) == ("2025-06-01T00:00Z", "2025-06-08T00:00Z", False)
    assert told["coverage_pct"] == pytest.approx(100 * (30_240 - 8_645) / 30_240)
    assert [each["symbol"] for each in told["symbols"]] == [SOL, ETH, BTC]
    eth = told["symbols"][1]
    assert (eth["first_day"], eth["last_day"]) == ("2025-06-01", "2025-06-07")
    assert (eth["verified"], eth["not_verified"]) == (1_440, 10_080 - 1_440)
    assert (eth["states"]["confirmed"], eth["states"]["halted"], eth["states"]["missing"]) == (1_435, 5, 0)
    assert eth["days"][1] == {"day": "2025-06-02", "expected": 1440, "daily": 1435, "streamed": None, "missing": 5}
    assert len(eth["days"]) == 7
    assert told["symbols"][0]["last_day"] == "2025-06-03"
    assert "missing_ranges" not in told


def test_missing_minutes_are_named_with_state_and_cause(alone: Program) -> None:
    """--missing lists ranges by symbol, with what the ledger says of each; as JSON too."""
    tell_ledger(alone)
    ended = alone.run("coverage", ETH, *_WEEK, "--missing")
    assert ended.code == 1
    assert re.search(r"ETH/USDT +2025-06-02T01:00Z +2025-06-02T01:05Z +5 +halted +exchange_halt", ended.out)
    assert "in 5 minutes the exchange halted, by the ledger" in ended.out
    told = json.loads(alone.run("coverage", ETH, *_WEEK, "--missing", "--json").out)["missing_ranges"]
    assert [(each["minutes"], each["state"], each["cause"]) for each in told] == [
        (5, "halted", "exchange_halt"),
        (1440, None, None),
    ]


def test_by_default_the_last_thirty_finished_days_are_looked_at(alone: Program) -> None:
    """Thirty whole days until the last midnight: today is not over, and is in no lake yet."""
    before = datetime.now(UTC).date()
    told = json.loads(alone.run("coverage", BTC, *_MARKET, "--json").out)
    after = datetime.now(UTC).date()
    assert told["expected"] == 30 * 1440
    assert told["end"][:10] in {str(before), str(after)}
    assert date.fromisoformat(told["start"][:10]) == date.fromisoformat(told["end"][:10]) - timedelta(days=30)


def test_a_png_is_a_heat_map_of_all_symbols(alone: Program, tmp_path: Path) -> None:
    """The picture is a PNG with the colours of what there is, and nothing else is left beside it."""
    file = tmp_path / "pictures" / "map.png"
    file.parent.mkdir()
    ended = alone.run("coverage", *_WEEK, "--output", str(file))
    assert ended.code == 1
    content = file.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    assert width > 1000
    assert 100 < height < 1000
    seen = {tuple(pixel) for row in (imread(file)[:, :, :3] * 255).round().astype(int) for pixel in row.tolist()}
    for level in (Level.WHOLE, Level.NEARLY, Level.NOTHING):
        code = COLOURS[level][0]
        assert tuple(int(code[at : at + 2], 16) for at in (1, 3, 5)) in seen, level
    assert [path.name for path in file.parent.iterdir()] == ["map.png"]


def test_a_page_has_everything_in_it(alone: Program, tmp_path: Path) -> None:
    """The HTML page refers to nothing outside, has no script, says each cell's numbers, and lists the ranges when asked."""
    tell_ledger(alone)
    file = tmp_path / "map.html"
    assert alone.run("coverage", *_WEEK, "--missing", "-o", str(file)).code == 1
    text = file.read_text("utf-8")
    read = Page(text)
    assert read.resources == ["data:,"]
    assert "script" not in read.tags
    assert not re.findall(r"https?:|//[a-z]|@import|url\(", text)
    assert f'title="{ETH}, 2025-06-02: 1,435 of 1,440 bars, 99.6528 %"' in text
    assert "prefers-color-scheme: dark" in text
    assert "exchange_halt" in read.text
    assert "8,645 of 30,240 expected bars are missing" in read.text


def test_a_hostile_symbol_stays_text() -> None:
    """Whatever a symbol is called, it is shown and not run."""
    bad = "<script>alert(1)</script>\"'&/USDT"
    table = pl.DataFrame(
        {
            "symbol": [bad],
            "day": [date(2025, 6, 1)],
            "expected": [1440],
            "daily": [1],
            "streamed": [0],
            "missing": [1439],
        }
    )
    states = ("confirmed", "repaired", "halted", "not_listed", "streamed_only", "fetched_only", "differing")
    table = table.with_columns(pl.lit(None, pl.Int64).alias(name) for name in (*states, "ledger_missing"))
    text = page(Coverage("spot", "v0.1", Interval.of_day(date(2025, 6, 1)), "both", True, table, None))
    read = Page(text)
    assert "script" not in read.tags
    assert bad in read.text
    assert "<script>" not in text


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ((*_WEEK, "--output", "map.pdf"), ".png or .html"),
        ((*_WEEK, "--source", "lake"), "daily, streamed or both"),
        ((*_MARKET, "--start", "2025-06-01T00:00"), "write 2025-06-01T00:00:00Z"),
        ((*_MARKET, "--start", "2025-06-02", "--end", "2025-06-01"), "try:"),
        (("BTC/USDX", *_WEEK), BTC),
        (("--market", "margin"), "spot or futures"),
        ((*_WEEK, "--universe", "v9.9"), "v0.1"),
    ],
)
def test_a_question_that_cannot_be_meant_is_one_error(alone: Program, arguments: tuple[str, ...], hint: str) -> None:
    """Exit code 2, what to write instead, nothing on standard output, and no file."""
    ended = alone.run("coverage", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert hint in ended.err


def test_a_database_that_is_away_is_said(stored: Program, alone: Program) -> None:
    """Who asks for streamed bars without a database is told so: exit code 3, not that everything is missing."""
    ended = alone.run("coverage", *_WEEK, "--source", "streamed")
    assert (ended.code, ended.out) == (3, "")
    assert "--source daily" in ended.err


def test_the_lake_alone_needs_no_database_that_answers(stored: Program) -> None:
    """--source daily asks no database, also where one is set that does not answer."""
    ended = stored.run(
        "coverage", BTC, "--market", "spot", "--start", "2025-06-01", "--end", "2025-06-02", "--source", "daily"
    )
    assert (ended.code, ended.err) == (0, "")


def test_nothing_expected_is_no_finding(alone: Program) -> None:
    """Of the future nothing is expected, so nothing is missing."""
    ended = alone.run("coverage", *_MARKET, "--start", "2095-01-01", "--end", "2095-01-02")
    assert (ended.code, ended.err) == (0, "")
    assert "no bar of [2095-01-01T00:00Z, 2095-01-02T00:00Z) is expected" in ended.out
    told = json.loads(alone.run("coverage", *_MARKET, "--start", "2095-01-01", "--end", "2095-01-02", "--json").out)
    assert (told["expected"], told["missing"], told["coverage_pct"], told["symbols"]) == (0, 0, None, [])


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_a_terminal_of_any_width_has_room(alone: Program, columns: int) -> None:
    """On a terminal there are colours, no line of table or map is longer than the terminal, and no number is cut or broken."""
    lines = list(_on_a_terminal(columns, "coverage", *_MARKET, "--start", "2025-01-01", "--end", "2025-07-01"))
    assert any("\x1b[" in line for line in lines)
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    drawn = [line for line in plain if line.startswith(("│", "┃", "┏", *SPOT))]
    assert len(drawn) >= 9
    assert max(map(len, drawn)) <= columns
    assert sum(line.startswith(SPOT) for line in plain) == 3
    sums = next(line for line in drawn if re.match(r"│ all +│", line)).split()
    assert {"781,920", "760,325", "2.7618"} <= set(sums)
    if columns == 160:
        assert any("last day" in line for line in plain)


def _on_a_terminal(columns: int, *arguments: str) -> Iterator[str]:
    """The lines that the program writes to a terminal of that width."""
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "ohlcv_assets.cli", *arguments]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "50"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(command, stdout=terminal, stderr=subprocess.DEVNULL, env=environment) as process:
        os.close(terminal)
        written = b""
        while chunk := _read(main):
            written += chunk
    os.close(main)
    assert process.returncode == 1
    yield from written.decode().replace("\r\n", "\n").splitlines()


def _read(main: int) -> bytes:
    """What came from the terminal; nothing when its other end is closed."""
    try:
        return os.read(main, 65_536)
    except OSError:  # how Linux says that nobody writes any more
        return b""


def test_days_share_a_column_where_there_is_no_room(alone: Program) -> None:
    """What is in a column is the sum of its days: nothing that is missing is ever shown as all."""
    from ohlcv_assets.client import OhlcvClient

    with OhlcvClient(read_settings()) as client:
        table = client.coverage("spot", "2025-06-01", "2025-06-08")
    found = Coverage("spot", "v0.1", Interval(START_MS, START_MS + 7 * DAY_MS), "both", False, table, None)
    drawn = grid(found, [BTC, ETH, SOL], 3)
    assert (drawn.days, drawn.firsts) == (3, [date(2025, 6, 1), date(2025, 6, 4), date(2025, 6, 7)])
    assert drawn.missing.tolist() == [[0, 1440, 0], [5, 1440, 0], [0, 4320, 1440]]
    assert ["".join(row) for row in drawn.characters] == ["#6#", "96#", "#.."]
    assert drawn.levels[1].tolist() == [Level.NEARLY, Level.SOME, Level.WHOLE]


def test_every_key_of_the_json_is_on_its_page(alone: Program) -> None:
    """The page of the reference names each key, and no other."""
    told = json.loads(alone.run("coverage", *_WEEK, "--missing", "--json").out)
    keys = {*told, *told["symbols"][0], *told["symbols"][0]["days"][0], *told["missing_ranges"][0]}
    text = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "coverage.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    first = {
        name.removeprefix("symbols[].") for row in rows for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])
    }
    named = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}
    assert first <= keys
    assert keys <= named
