"""Promises of the page of tables and files: it lists what a migrated database and a written day really have."""

import io
from datetime import date

import polars as pl
import psycopg
import pytest

from ohlcv_assets.instruments import Market, Universe
from ohlcv_assets.quality.causes import CAUSES
from ohlcv_assets.quality.ledger import RANGES_SCHEMA, State
from ohlcv_assets.quality.recent import RecentBars
from ohlcv_assets.quality.results import partition_folder
from ohlcv_assets.storage.absent_file import ABSENT_SCHEMA
from ohlcv_assets.storage.bars_file import GROUP_SYMBOLS, encode
from ohlcv_assets.storage.signature import Signature
from ohlcv_assets.timestamps import Interval
from ohlcv_assets_tests.builders import DOWNLOADED, bars
from ohlcv_assets_tests.docs.pages import DOCS, rows

_PAGE = DOCS / "reference" / "tables.md"
_TEXT = _PAGE.read_text("utf-8")
_COLUMNS = """
    select c.relname, a.attname, replace(format_type(a.atttypid, a.atttypmod), 'timestamp with time zone', 'timestamptz')
    from pg_class as c join pg_attribute as a on a.attrelid = c.oid
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v') and not c.relispartition
        and a.attnum > 0 and not a.attisdropped
    order by c.relname, a.attnum
"""


def _shown() -> dict[str, list[tuple[str, str]]]:
    """The tables of the page: column and type, in order."""
    sections = {part.split("`")[0]: part for part in _TEXT.split("\n### `")[1:]}
    shown = {}
    for name, section in sections.items():
        cells = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
        shown[name] = [(row[0].strip("`"), row[1]) for row in cells if len(row) == 3]
    return shown


def test_every_table_view_and_column_is_on_the_page(database_url: str) -> None:
    """Each table and view has its section, with every column in its order and of its type, and no other."""
    with psycopg.connect(database_url) as connection:
        found: dict[str, list[tuple[str, str]]] = {}
        for table, column, kind in connection.execute(_COLUMNS):
            found.setdefault(table, []).append((column, kind))
    assert found == _shown()


def test_every_function_that_reads_the_past_is_on_the_page(database_url: str) -> None:
    """The functions that a reader may ask with a moment are named."""
    with psycopg.connect(database_url) as connection:
        functions = connection.execute(
            "select proname from pg_proc where pronamespace = 'public'::regnamespace and proname like '%as_of'"
        ).fetchall()
    assert functions
    assert [name for (name,) in functions if f"`{name}(moment)`" not in _TEXT] == []


def test_the_roles_on_the_page_are_those_with_rights(database_url: str) -> None:
    """Whoever may read the bars, other than their owner, is on the page, with no right that it does not say."""
    with psycopg.connect(database_url) as connection:
        granted = connection.execute(
            "select grantee, privilege_type from information_schema.role_table_grants "
            "where table_name = 'bars' and grantee <> grantor "
            "union select grantee, privilege_type from information_schema.column_privileges "
            "where table_name = 'bars' and grantee <> grantor"
        ).fetchall()
    may = {role: {right for grantee, right in granted if grantee == role} for role, _ in granted}
    assert may == {"ohlcv_writer": {"INSERT", "SELECT"}, "ohlcv_reader": {"SELECT"}}
    assert {row[0]: row[1].split(";")[0] for row in rows(_PAGE, "role")[1:]} == {
        "ohlcv_writer": "insert and select",
        "ohlcv_reader": "select",
    }


def test_every_state_and_cause_of_the_ledger_is_on_the_page() -> None:
    """The eight states and the causes of gaps are listed, each once."""
    assert sorted(row[0] for row in rows(_PAGE, "state")) == sorted(State)
    assert sorted(row[0] for row in rows(_PAGE, "cause")) == sorted(cause for cause in CAUSES if cause)


@pytest.mark.parametrize("market", list(Market), ids=str)
def test_the_paths_on_the_page_are_those_that_are_written(market: Market) -> None:
    """What the page says of a dataset's path, of windows and of results is where the code puts them."""
    universe, day = (
        Universe.of("v7.3", {market: ["BTC/USDT" if market is Market.SPOT else "BTC/USDT:USDT"]}),
        date(2025, 6, 1),
    )
    paths = [
        row[0].replace("<market>", market).replace("<universe>", "v7_3").replace("<day>", "2025-06-01")
        for row in rows(_PAGE, "path")
    ]
    signature = Signature.daily(market, universe)
    hour = Interval.parse("2025-06-01T05:00Z", "2025-06-01T06:00Z")
    assert signature.key(day) in paths
    assert f"{partition_folder('daily_qa', market, universe, hour)}/run=<run>/" in paths
    assert f"{partition_folder('recent_qa', market, universe, hour)}/run=<run>/".replace("=05", "=<HH>") in paths
    assert f"{RecentBars(None, market, universe)._folder}/date=2025-06-01/<HHMM>.parquet" in paths
    parts = (
        _TEXT.split("signature, in this order: ")[1].split(".\n")[0].replace("\n", " ").replace("`", "").split(", ")
    )
    assert [getattr(signature, part) for part in parts] == signature.path.split("/")


def test_the_metadata_of_a_day_are_on_the_page() -> None:
    """Every entry that a day's file has of its own is listed, and the size of its row groups."""
    content = encode(bars().with_columns(knowledge_timestamp=DOWNLOADED), universe_hash="sha256:0")
    written = [name for name in pl.read_parquet_metadata(io.BytesIO(content)) if name.startswith("ohlcv.")]
    assert sorted(row[0] for row in rows(_PAGE, "metadata")) == sorted(written)
    assert f"row groups of {GROUP_SYMBOLS} symbols" in _TEXT


def test_the_columns_of_the_other_files_are_on_the_page() -> None:
    """What lies beside a day, and its ledger, is listed by its columns."""
    held = {row[0].rpartition("/")[2]: row[1] for row in rows(_PAGE, "path")}
    assert f"`{', '.join(ABSENT_SCHEMA)}`" in f"{held['absent.parquet']}`"
    assert f"`{', '.join(RANGES_SCHEMA)}`" in f"{held['ledger.parquet']}`"
