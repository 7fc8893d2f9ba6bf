"""The ledger in PostgreSQL, against a real server: whole versions only, the newest believed, the former readable."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime

import polars as pl
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ohlcv_assets.errors import InvalidBars, NaiveTime
from ohlcv_assets.instruments import Market
from ohlcv_assets.storage import quality_store as module
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.quality_statements import TAKE_TURNS
from ohlcv_assets.storage.quality_store import (
    LEDGER_COUNTS_SCHEMA,
    RANGES_SCHEMA,
    QualityStore,
)
from ohlcv_assets.timestamps import DAY_MS, HOUR_MS, MINUTE_MS, Interval
from ohlcv_assets_tests.integration.test_database import DAY, START_MS
from ohlcv_assets_tests.integration.test_quality_store import losing_the_first_answer

SPOT, FUTURES = Market.SPOT, Market.FUTURES
#: symbol, first minute of the day, end minute, state; then cause and proof where there are some.
Said = tuple[str, int, int, str] | tuple[str, int, int, str, str | None, str | None]


@pytest.fixture
def store(database: Database) -> QualityStore:
    return QualityStore(database)


@pytest.fixture
def owner(database_url: str) -> Iterator[psycopg.Connection]:
    """A session of the login itself, which owns the tables."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def ranges(*said: Said, start_ms: int = START_MS) -> pl.DataFrame:
    rows = [(*row, None, None)[:6] for row in said]
    return pl.DataFrame(
        [(row[0], start_ms + row[1] * MINUTE_MS, start_ms + row[2] * MINUTE_MS, *row[3:]) for row in rows],
        schema=RANGES_SCHEMA,
        orient="row",
    )


def minutes(first: int, end: int) -> Interval:
    return Interval(START_MS + first * MINUTE_MS, START_MS + end * MINUTE_MS)


def keep(store: QualityStore, interval: Interval, said: pl.DataFrame, bars: int | None = None) -> int:
    expected = said["symbol"].n_unique() * len(interval.minutes) if bars is None else bars
    return store.record_ledger(FUTURES, interval, said, universe="v7_3", bars_expected=expected, run_id="run")


def test_a_ledger_comes_back_as_it_was_given(store: QualityStore) -> None:
    """States, causes and proofs come back, sorted by symbol and start, and counted by day and state."""
    said = ranges(
        ("A", 0, 600, "confirmed"),
        ("A", 600, 660, "missing", "our_outage", '{"connected_s": 0}'),
        ("A", 660, 1440, "confirmed"),
        ("B", 0, 1440, "not_listed", "not_listed_yet", '"first bar: 2025-07-01"'),
    )
    keep(store, DAY, said.sample(fraction=1, shuffle=True, seed=1))
    assert store.ledger(FUTURES, DAY).equals(said)
    counts = store.ledger_counts(FUTURES, DAY)
    assert dict(counts.schema) == LEDGER_COUNTS_SCHEMA
    assert counts.rows() == [
        (date(2025, 6, 1), "confirmed", 1380),
        (date(2025, 6, 1), "missing", 60),
        (date(2025, 6, 1), "not_listed", 1440),
    ]
    assert store.ledger(SPOT, DAY).is_empty()
    assert dict(store.ledger(SPOT, DAY).schema) == RANGES_SCHEMA


@pytest.mark.parametrize(
    ("said", "bars"),
    [
        (ranges(("A", 0, 1439, "confirmed")), 1440),
        (ranges(("A", 0, 1440, "confirmed")), 2880),
        (ranges(("A", 0, 1440, "confirmed")), 720),
        (ranges(("A", 0, 800, "confirmed"), ("A", 700, 1340, "missing")), 1440),
        (ranges(("A", 0, 1440, "confirmed"), ("A", 0, 1440, "missing")), 2880),
        (ranges(("A", 1, 1441, "confirmed")), 1440),
        (ranges(("A", 0, 2880, "confirmed")), 2880),
        (ranges(("A", 0, 1440, "confirmed"), ("B", 5, 5, "missing")), 1440),
        (ranges(("A", 0, 1440, "confirmed")).with_columns(pl.col("end") + 1), 1440),
        (ranges(), 0),
    ],
)
def test_a_ledger_that_does_not_sum_to_the_grid_is_refused(
    store: QualityStore, said: pl.DataFrame, bars: int
) -> None:
    """A hole, an overlap, a minute outside, a symbol too few: nothing of it is stored."""
    with pytest.raises(InvalidBars, match=f"expected {bars}"):
        keep(store, DAY, said, bars)
    assert store.ledger(FUTURES, DAY).is_empty()


@pytest.mark.parametrize(
    "said",
    [
        ranges(("A", 0, 1439, "confirmed")),
        ranges(("A", 0, 1440, "confirmed"), ("B", 0, 1440, "confirmed")),
        ranges(("A", 0, 800, "confirmed"), ("A", 700, 1340, "missing")),
        ranges(("A", -1, 1439, "confirmed")),
        ranges(("A", 0, 700, "confirmed"), ("B", 700, 1440, "missing")),
        ranges(),
    ],
)
def test_the_database_itself_refuses_a_ledger_with_holes(
    store: QualityStore, monkeypatch: pytest.MonkeyPatch, said: pl.DataFrame
) -> None:
    """Also where nobody has looked in Python, no version is stored whose ranges are not the whole grid."""
    monkeypatch.setattr(module, "_check_whole", lambda *_: None)
    with pytest.raises(InvalidBars, match="the ledger of 2025-06-01"):
        keep(store, DAY, said, 1440)
    assert store.ledger_counts(FUTURES, DAY).is_empty()


@pytest.mark.parametrize(("first", "end"), [(-1, 59), (1, 61)])
def test_the_database_itself_refuses_ranges_outside_their_version(
    database: Database, store: QualityStore, first: int, end: int
) -> None:
    """As many minutes as expected, but not those of the version, are refused by the table."""
    day = "insert into ledger_days (market, day, start_ms, end_ms, universe, bars_expected, run_id, receipt) values ('futures', '2025-06-01', %s, %s, 'v7_3', 60, 'run', gen_random_uuid()) returning version"
    one = "insert into ledger_ranges (version, symbol, start_ms, end_ms, state) values (%s, 'A', %s, %s, 'missing')"

    def told(connection: psycopg.Connection) -> None:
        with connection.transaction():
            version = connection.execute(day, [START_MS, START_MS + HOUR_MS]).fetchone()
            connection.execute(one, [version[0], START_MS + first * MINUTE_MS, START_MS + end * MINUTE_MS])

    with pytest.raises(InvalidBars, match="the ledger of 2025-06-01"):
        database.written(told)
    assert store.ledger(FUTURES, DAY).is_empty()


def test_an_unknown_state_is_refused(store: QualityStore) -> None:
    """A state that is none of the eight stores nothing."""
    with pytest.raises(InvalidBars):
        keep(store, DAY, ranges(("A", 0, 1440, "probably")))
    assert store.ledger(FUTURES, DAY).is_empty()


def test_nothing_is_added_to_a_version(store: QualityStore, database: Database) -> None:
    """Ranges that come after their version are refused by the table."""
    version = keep(store, DAY, ranges(("A", 0, 1440, "confirmed")))
    late = "insert into ledger_ranges (version, symbol, start_ms, end_ms, state) values (%s, 'B', %s, %s, 'missing')"
    with pytest.raises(InvalidBars):
        database.written(lambda connection: connection.execute(late, [version, START_MS, START_MS + DAY_MS]).rowcount)
    assert store.ledger(FUTURES, DAY)["symbol"].to_list() == ["A"]


def test_the_newest_version_counts_and_the_former_is_readable(store: QualityStore) -> None:
    """A later ledger of a day takes the former one's place, also its symbols'; `as_of` reads what was believed before."""
    first = ranges(("A", 0, 1440, "missing", "unknown", None), ("B", 0, 1440, "confirmed"))
    second = ranges(("A", 0, 1440, "repaired"))
    former = keep(store, DAY, first)
    between = datetime.now(UTC)
    assert keep(store, DAY, second) > former
    assert store.ledger(FUTURES, DAY).equals(second)
    assert store.ledger(FUTURES, DAY, as_of=between).equals(first)
    with pytest.raises(NaiveTime):
        store.ledger(FUTURES, DAY, as_of=datetime(2025, 6, 1))  # noqa: DTZ001


def test_several_days_are_a_version_each(store: QualityStore, owner: psycopg.Connection) -> None:
    """An interval of days is cut at midnight, is read back in one piece, and one of its days can be told anew."""
    two = Interval(START_MS, START_MS + 2 * DAY_MS)
    said = ranges(("A", 0, 2000, "confirmed"), ("A", 2000, 2880, "missing"), ("B", 0, 2880, "halted"))
    keep(store, two, said)
    assert store.ledger(FUTURES, two).equals(said)
    days = owner.execute("select day, bars_expected from ledger_days order by version").fetchall()
    assert days == [(date(2025, 6, 1), 2880), (date(2025, 6, 2), 2880)]
    second_day = Interval(START_MS + DAY_MS, START_MS + 2 * DAY_MS)
    keep(store, second_day, ranges(("A", 0, 1440, "repaired"), ("B", 0, 1440, "halted"), start_ms=START_MS + DAY_MS))
    assert (
        store.ledger(FUTURES, two).rows()
        == ranges(("A", 0, 1440, "confirmed"), ("A", 1440, 2880, "repaired"), ("B", 0, 2880, "halted")).rows()
    )


def test_an_hour_is_told_anew_within_its_day(store: QualityStore) -> None:
    """A version of an hour counts for its hour alone, and a later one of the day for all of it."""
    keep(store, DAY, ranges(("A", 0, 1440, "missing")))
    keep(store, minutes(60, 120), ranges(("A", 60, 120, "repaired")))
    keep(store, minutes(90, 150), ranges(("A", 90, 150, "confirmed")))
    pieces = [("A", 0, 60, "missing"), ("A", 60, 90, "repaired"), ("A", 90, 150, "confirmed"), ("A", 150, 1440, "missing")]  # fmt: skip
    assert store.ledger(FUTURES, DAY).equals(ranges(*pieces))
    assert store.ledger(FUTURES, minutes(80, 100)).equals(
        ranges(("A", 80, 90, "repaired"), ("A", 90, 100, "confirmed"))
    )
    assert store.ledger_counts(FUTURES, minutes(80, 100))["bars"].to_list() == [10, 10]
    keep(store, DAY, ranges(("A", 0, 1440, "confirmed")))
    assert store.ledger(FUTURES, DAY).equals(ranges(("A", 0, 1440, "confirmed")))


@given(
    versions=st.lists(
        st.tuples(st.integers(0, 47), st.integers(1, 6), st.sampled_from(["confirmed", "missing", "repaired"])),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=25)
def test_each_minute_is_what_was_said_of_it_last(
    local_store: QualityStore, versions: list[tuple[int, int, str]]
) -> None:
    """However versions of half hours overlap, also over midnight, each minute has the state that was said last."""
    store, market = local_store, SPOT
    known: dict[int, str] = {}
    whole = Interval(START_MS, START_MS + 2 * DAY_MS)
    keep_spot(store, whole, "halted")
    for start, length, state in versions:
        interval = Interval(START_MS + start * HOUR_MS // 2, START_MS + (start + length) * HOUR_MS // 2)
        keep_spot(store, interval, state)
        known |= dict.fromkeys(interval.minutes, state)
    found = store.ledger(market, whole)
    told = {
        ms: row["state"] for row in found.iter_rows(named=True) for ms in Interval(row["start"], row["end"]).minutes
    }
    assert told == {ms: known.get(ms, "halted") for ms in whole.minutes}


def keep_spot(store: QualityStore, interval: Interval, state: str) -> None:
    said = pl.DataFrame(
        [("A", interval.start_ms, interval.end_ms, state, None, None)], schema=RANGES_SCHEMA, orient="row"
    )
    store.record_ledger(SPOT, interval, said, universe="v7_3", bars_expected=len(interval.minutes), run_id="run")


@pytest.fixture(scope="module")
def local_store(local_postgres: object) -> Iterator[QualityStore]:
    """A store that the examples of one test share: each of them begins with the whole of its days."""
    url = local_postgres.url("postgres")  # type: ignore[attr-defined]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create database shared_quality template template_ohlcv")
    with Database(local_postgres.url("shared_quality"), patience_s=10) as database:  # type: ignore[attr-defined]
        yield QualityStore(database)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("drop database shared_quality with (force)")


def test_the_view_has_a_row_a_minute(store: QualityStore, owner: psycopg.Connection) -> None:
    """The view `ledger` holds every symbol and minute once, and `ledger_counts` sums to the grid."""
    keep(store, DAY, ranges(("A", 0, 1440, "confirmed"), ("B", 0, 1000, "missing"), ("B", 1000, 1440, "halted")))
    keep(store, minutes(990, 1010), ranges(("A", 990, 1010, "differing"), ("B", 990, 1010, "repaired")))
    rows = owner.execute('select market, symbol, "timestamp", state from ledger').fetchall()
    assert len(rows) == len(set(rows)) == 2880
    assert {row[2] for row in rows} == set(DAY.minutes)
    states = {(symbol, (ms - START_MS) // MINUTE_MS): state for _, symbol, ms, state in rows}
    assert [states["B", minute] for minute in (989, 990, 1009, 1010)] == ["missing", "repaired", "repaired", "halted"]
    assert owner.execute("select sum(bars) from ledger_counts").fetchone() == (2880,)


def test_a_day_of_the_view_does_not_expand_the_others(store: QualityStore, owner: psycopg.Connection) -> None:
    """A query of one market and day finds its versions by the index, without a look at other days' ranges."""
    keep(store, DAY, ranges(("A", 0, 1440, "confirmed")))
    owner.execute("set enable_seqscan = off")
    query = "select * from ledger where market = 'futures' and day = '2025-06-01'"
    plan = "\n".join(row[0] for row in owner.execute(f"explain {query}"))
    assert "Index Cond: ((market = 'futures'::text) AND (day = '2025-06-01'::date))" in plan
    assert "CTE Scan" not in plan
    assert "Function Scan on ledger_as_of" not in plan


def test_writers_of_one_day_take_turns(database_url: str, store: QualityStore) -> None:
    """Of many ledgers of a day at once each is a version of its own, and the highest one is what is read."""
    versions: dict[int, str] = {}

    def writer(number: int) -> None:
        with Database(database_url, patience_s=20) as database:
            said = ranges(("A", 0, 1440, "missing", f"cause {number}", None))
            versions[keep(QualityStore(database), DAY, said)] = f"cause {number}"

    threads = [threading.Thread(target=writer, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(versions) == 6
    assert store.ledger(FUTURES, DAY)["cause"].to_list() == [versions[max(versions)]]


def test_a_ledger_waits_for_the_one_before_it(store: QualityStore, owner: psycopg.Connection) -> None:
    """While another ledger is being stored the next one waits: the highest version is the last that was committed."""
    waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
    with ThreadPoolExecutor(1) as thread:
        with owner.transaction():
            owner.execute(TAKE_TURNS)
            storing = thread.submit(keep, store, DAY, ranges(("A", 0, 1440, "confirmed")))
            while not storing.done() and owner.execute(waiting).fetchone() == (0,):
                time.sleep(0.01)
            assert not storing.done()
        assert storing.result() > 0


def test_a_lost_answer_makes_no_second_version(
    store: QualityStore, database: Database, owner: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger whose acknowledgement was lost is stored once, and its version is told."""
    losing_the_first_answer(database, monkeypatch)
    version = keep(store, Interval(START_MS, START_MS + 2 * DAY_MS), ranges(("A", 0, 2880, "confirmed")))
    assert [row[0] for row in owner.execute("select version from ledger_days order by 1")] == [version - 1, version]
