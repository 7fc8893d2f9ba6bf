"""The database of bars against a real server: what is stored, what is refused, what is read, and who may do what."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import psycopg
import pytest

from ohlcv_assets.bars import CAPTURED_SCHEMA, INVARIANTS, SCHEMA, SQL_TYPES, VALUES, Channel
from ohlcv_assets.errors import InvalidBars, NaiveTime, Refused
from ohlcv_assets.instruments import Market
from ohlcv_assets.storage.connections import Role, conninfo
from ohlcv_assets.storage.database import Database, Recorded
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, Interval

START_MS = 1_748_736_000_000  # 2025-06-01T00:00Z
DAY = Interval(START_MS, START_MS + DAY_MS)
COLUMNS_OF = "select attname, atttypid::regtype::text, attnotnull from pg_attribute where attrelid = %s::regclass and attnum > 0 order by attnum"
BEYOND_PARAMETERS = 6_000


def bar(minute: int = 0, symbol: str = "BTC/USDT:USDT", **values: float) -> pl.DataFrame:
    """One valid futures bar, with these values changed."""
    row = {
        "market": "futures", "symbol": symbol, "timestamp": START_MS + minute * MINUTE_MS,
        "open": 10.0, "high": 12.0, "low": 9.0, "close": 11.0, "volume": 5.0, "quote_volume": 50.0,
        "trade_count": 7, "taker_buy_volume": 2.0, "taker_buy_quote_volume": 20.0,
        "end_download_timestamp": datetime(2025, 6, 2, tzinfo=UTC),
    }  # fmt: skip
    return pl.DataFrame([row | values], schema=CAPTURED_SCHEMA)


def random_bars(count: int, seed: int) -> pl.DataFrame:
    """Valid bars whose prices and volumes are doubles of every size, taken from random bits."""
    random = np.random.default_rng(seed)
    doubles = random.integers(1, 0x7FEFFFFFFFFFFFFF, (count, 8)).view(np.float64)
    prices = np.sort(doubles[:, :4], axis=1)
    base, quote = np.sort(doubles[:, 4:6], axis=1), np.sort(doubles[:, 6:], axis=1)
    return pl.DataFrame(
        {
            "market": ["futures"] * count,
            "symbol": [f"S{number % 50}/USDT:USDT" for number in range(count)],
            "timestamp": START_MS + np.arange(count) // 50 * MINUTE_MS,
            "open": prices[:, 1], "high": prices[:, 3], "low": prices[:, 0], "close": prices[:, 2],
            "volume": base[:, 1], "quote_volume": quote[:, 1], "trade_count": random.integers(1, 2**63 - 1, count),
            "taker_buy_volume": base[:, 0], "taker_buy_quote_volume": quote[:, 0],
            "end_download_timestamp": [datetime(2025, 6, 2, 0, 0, 0, 123457, tzinfo=UTC)] * count,
        },
        schema=CAPTURED_SCHEMA,
    )  # fmt: skip


def record(database: Database, bars: pl.DataFrame, run_id: str = "run") -> Recorded:
    return database.record(bars, channel=Channel.REST, run_id=run_id)


@pytest.fixture
def owner(database_url: str) -> Iterator[psycopg.Connection]:
    """A session of the login itself, which owns the tables."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


# The schema ---------------------------------------------------------------------------------------------------------


def test_columns_of_the_tables_are_those_of_the_bar(owner: psycopg.Connection) -> None:
    """Every table and view has exactly the columns of bars.py, in its order, then how and by whom a bar came."""
    types = {name: owner.execute("select %s::regtype::text", [sql]).fetchone()[0] for name, sql in SQL_TYPES.items()}
    bar_columns = [*types.items(), ("channel", "text"), ("run_id", "text")]
    extra = {"bars": [], "bars_latest": [], "bar_revisions": [("reason", "text"), ("revision", "bigint")]}
    for table, more in extra.items():
        rows = owner.execute(COLUMNS_OF, [table]).fetchall()
        assert [row[:2] for row in rows] == bar_columns + more
        assert table == "bars_latest" or all(row[2] for row in rows)


def test_every_invariant_is_a_constraint_of_the_same_name(owner: psycopg.Connection) -> None:
    """Each invariant of bars.py stands as a check of both tables; `complete` is `not null` everywhere."""
    names = "select conname from pg_constraint where conrelid = %s::regclass and contype = 'c'"
    wanted = {invariant.name for invariant in INVARIANTS} - {"complete"}
    for table in ("bars", "bar_revisions"):
        assert {row[0] for row in owner.execute(names, [table])} == wanted


@pytest.mark.parametrize(
    ("constraint", "assignment"),
    [
        ("on_the_grid", "timestamp = timestamp + 1"),
        ("in_milliseconds", "timestamp = timestamp * 1000"),
        ("prices_positive", "low = 0"),
        ("prices_positive", "high = 'infinity'"),
        ("prices_positive", "open = 'nan', high = 'nan', low = 'nan', close = 'nan'"),
        ("high_is_highest", "high = close - 0.5"),
        ("low_is_lowest", "low = open + 0.5"),
        ("amounts_not_negative", "taker_buy_volume = -1"),
        ("amounts_not_negative", "volume = 'nan'"),
        (
            "trade_count_not_negative",
            "trade_count = -1, volume = 0, quote_volume = 0, taker_buy_volume = 0, taker_buy_quote_volume = 0",
        ),
        ("no_trade_no_volume", "trade_count = 0"),
        ("no_trade_no_volume", "trade_count = 0, volume = 0, taker_buy_volume = 0"),
        ("taker_part_of_whole", "taker_buy_volume = volume + 1"),
    ],
)
def test_the_database_itself_refuses_a_broken_bar(
    database: Database, owner: psycopg.Connection, constraint: str, assignment: str
) -> None:
    """A bar that breaks an invariant is refused by the table too, whoever brings it."""
    record(database, bar())
    owner.execute("create table loose as select * from bars")
    owner.execute(f"update loose set {assignment}")
    columns = ", ".join(f'"{name}"' for name in (*SCHEMA, "channel", "run_id"))
    with pytest.raises(psycopg.errors.CheckViolation, match=constraint):
        owner.execute(f"insert into bar_revisions ({columns}, reason) select {columns}, 'test' from loose")


# Recording ----------------------------------------------------------------------------------------------------------


def test_what_was_recorded_is_read_back(database: Database) -> None:
    """A bar that was recorded is read back with the same values, the schema of a bar and its channel."""
    assert database.record(bar(), channel=Channel.WEBSOCKET, run_id="run") == Recorded(1, 0, 0)
    read = database.read(Market.FUTURES, DAY)
    assert read.schema == pl.Schema({**SCHEMA, "channel": pl.String()})
    assert read.select(list(CAPTURED_SCHEMA)).equals(bar())
    assert read["channel"].to_list() == ["websocket"]


@pytest.mark.parametrize("count", [5_000, 100_000])
def test_doubles_of_every_size_survive_bit_for_bit(database: Database, count: int) -> None:
    """Random doubles, subnormal to huge, come back with every bit, by parameters (5,000) and by COPY (100,000)."""
    bars = random_bars(count, seed=count)
    assert record(database, bars.sample(fraction=1, shuffle=True, seed=1)) == Recorded(count, 0, 0)
    read = database.read(Market.FUTURES, Interval(START_MS, START_MS + 3 * DAY_MS)).select(list(CAPTURED_SCHEMA))
    assert read.equals(bars.sort("symbol", "timestamp"))


def test_what_the_caller_calls_knowledge_is_ignored(database: Database) -> None:
    """knowledge_timestamp is the database's own clock at insertion, whatever the frame says."""
    before = datetime.now(UTC) - timedelta(seconds=1)
    claimed = pl.lit(datetime(2000, 1, 1, tzinfo=UTC)).cast(pl.Datetime("us", "UTC")).alias("knowledge_timestamp")
    record(database, bar().with_columns(claimed))
    assert (
        before
        < database.read(Market.FUTURES, DAY)["knowledge_timestamp"].item()
        < datetime.now(UTC) + timedelta(seconds=1)
    )


def test_empty_batch_is_nothing(database: Database) -> None:
    """No bars are no work."""
    assert record(database, bar().clear()) == Recorded(0, 0, 0)


def test_equal_bars_of_one_batch_collapse(database: Database) -> None:
    """A bar that is twice in a batch is stored once and counted as the same; one that differs stops the batch."""
    assert record(database, pl.concat([bar(), bar(), bar(1)])) == Recorded(2, 1, 0)
    with pytest.raises(InvalidBars, match="two different bars of BTC/USDT:USDT at 2025-06-01T00:02Z"):
        record(database, pl.concat([bar(2), bar(2, close=10.5), bar(3)]))
    assert database.keys(Market.FUTURES, DAY).height == 2


@pytest.mark.parametrize(
    "broken",
    [
        bar(high=1.0),
        bar().drop("end_download_timestamp"),
        bar().with_columns(pl.lit(None, pl.Datetime("us", "UTC")).alias("end_download_timestamp")),
        bar().with_columns(pl.col("volume").cast(pl.Float32)),
    ],
)
def test_broken_batch_stores_nothing(database: Database, broken: pl.DataFrame) -> None:
    """A bar that is none stops its batch before the database sees it."""
    with pytest.raises(InvalidBars):
        record(database, broken)
    assert database.keys(Market.FUTURES, DAY).is_empty()


def test_first_value_stays_and_later_ones_are_revisions(database: Database) -> None:
    """A, A, B, B, A makes one bar and two revisions; the latest is A again, and each moment can be read as it was."""
    moments = []
    outcomes = []
    for close in (11.0, 11.0, 10.5, 10.5, 11.0):
        moments.append(datetime.now(UTC))
        outcomes.append(record(database, bar(close=close), run_id=f"run-{close}"))
    moments.append(datetime.now(UTC))
    new, same, revised = Recorded(1, 0, 0), Recorded(0, 1, 0), Recorded(0, 0, 1)
    assert outcomes == [new, same, revised, same, revised]

    revisions = database.revisions(Market.FUTURES, DAY)
    assert revisions.select("close", "run_id", "reason").rows() == [
        (10.5, "run-10.5", "capture"),
        (11.0, "run-11.0", "capture"),
    ]
    known = [database.read(Market.FUTURES, DAY, as_of=moment)["close"].to_list() for moment in moments]
    assert known == [[], [11.0], [11.0], [10.5], [10.5], [11.0]]
    assert database.read(Market.FUTURES, DAY)["close"].to_list() == [11.0]


@pytest.mark.parametrize("column", VALUES)
def test_difference_in_any_value_is_a_revision(database: Database, column: str) -> None:
    """Each of the nine values alone makes a capture differ; the time of download does not."""
    record(database, bar())
    later = bar(end_download_timestamp=datetime(2025, 6, 3, tzinfo=UTC))
    assert record(database, later) == Recorded(0, 1, 0)
    changed = {"high": 12.5, "low": 8.5, "trade_count": 8}.get(column, bar()[column].item() + 0.25)
    assert record(database, bar(**{column: changed})) == Recorded(0, 0, 1)
    assert database.read(Market.FUTURES, DAY)[column].to_list() == [changed]


def test_many_bars_are_revised_as_few_are(database: Database) -> None:
    """A batch beyond the parameters' limit finds its new, equal and differing bars just the same."""
    first = random_bars(BEYOND_PARAMETERS, seed=3)
    assert record(database, first.head(5_900)) == Recorded(5_900, 0, 0)
    changed = first.with_columns(close=pl.when(pl.int_range(pl.len()) < 70).then("low").otherwise("close"))
    assert record(database, changed) == Recorded(100, 5_830, 70)
    assert record(database, changed) == Recorded(0, 6_000, 0)
    read = database.read(Market.FUTURES, DAY).select(list(CAPTURED_SCHEMA))
    assert read.equals(changed.sort("symbol", "timestamp"))


# Reading ------------------------------------------------------------------------------------------------------------


def test_reads_are_half_open_and_of_one_market(database: Database) -> None:
    """A read of [a, b) holds the bar of a and not that of b, of the market asked, of the symbols asked, sorted."""
    spot = bar(symbol="BTC/USDT").with_columns(market=pl.lit("spot"))
    record(
        database, pl.concat([bar(minute, symbol) for minute in range(4) for symbol in ("B/U:U", "A/U:U")] + [spot])
    )
    interval = Interval(START_MS + MINUTE_MS, START_MS + 3 * MINUTE_MS)
    both = [("A/U:U", 1), ("A/U:U", 2), ("B/U:U", 1), ("B/U:U", 2)]
    expected = [(symbol, START_MS + minute * MINUTE_MS) for symbol, minute in both]
    assert database.read(Market.FUTURES, interval).select("symbol", "timestamp").rows() == expected
    assert database.keys(Market.FUTURES, interval).rows() == expected
    assert database.read(Market.FUTURES, interval, symbols=["B/U:U"])["symbol"].to_list() == ["B/U:U"] * 2
    assert database.read(Market.FUTURES, interval, symbols=[]).is_empty()
    assert database.read(Market.SPOT, DAY)["symbol"].to_list() == ["BTC/USDT"]


def test_empty_reads_have_the_schema(database: Database) -> None:
    """A read that finds nothing has the columns and dtypes of one that does."""
    assert database.read(Market.SPOT, DAY).schema == pl.Schema({**SCHEMA, "channel": pl.String()})
    assert database.keys(Market.SPOT, DAY).schema == pl.Schema({"symbol": pl.String(), "timestamp": pl.Int64()})
    assert database.revisions(Market.SPOT, DAY).columns == [*SCHEMA, "channel", "run_id", "reason", "revision"]


def test_naive_as_of_is_refused(database: Database) -> None:
    """A time without a zone is not taken for UTC."""
    with pytest.raises(NaiveTime):
        database.read(Market.FUTURES, DAY, as_of=datetime(2025, 6, 1))  # noqa: DTZ001


@pytest.mark.parametrize("rows", [1, BEYOND_PARAMETERS])
def test_hostile_symbols_are_only_symbols(database: Database, rows: int) -> None:
    """Quotes, commas, backslashes, line breaks and SQL in a symbol are stored and found as they are, by both ways."""
    hostile = [
        "'; drop table bars; --",
        'a"b,c',
        "back\\slash\\n",
        "line\nbreak\r\n",
        "{brace}",
        "%s %(x)s",
        "币安",
        "\\N",
        "NULL",
        "",
    ]
    record(
        database, pl.concat([bar(minute, symbol) for symbol in hostile for minute in range(-(-rows // len(hostile)))])
    )
    assert set(database.keys(Market.FUTURES, DAY)["symbol"]) == set(hostile)
    for symbol in hostile:
        assert set(database.read(Market.FUTURES, DAY, symbols=[symbol])["symbol"]) == {symbol}


def test_reads_touch_only_the_partitions_they_need(database: Database, owner: psycopg.Connection) -> None:
    """A day is a partition, and a read of one day with its revisions does not look at another day's."""
    record(database, pl.concat([bar(minute) for minute in (-1, 0, 1439, 1440)]))
    query = f'select * from bars_latest where "timestamp" >= {START_MS} and "timestamp" < {START_MS + DAY_MS}'
    plan = "\n".join(row[0] for row in owner.execute(f"explain {query}"))
    assert "bars_20250601" in plan
    assert "bars_20250531" not in plan
    assert "bars_20250602" not in plan
    assert "Function Scan" not in plan


# Rights -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "update bars set close = 1",
        "delete from bars",
        "truncate bars",
        "update bar_revisions set reason = 'none'",
        "delete from bar_revisions",
        "delete from bars_20250601",
        "insert into bars_20250601 select * from bars",
        "insert into bars (knowledge_timestamp) values (now())",
        "insert into bar_revisions (revision) overriding system value values (1)",
        "create table mine ()",
        "drop table bars",
        "alter table bars add column more int",
        "delete from schema_migrations",
    ],
)
def test_writer_may_only_add(database: Database, database_url: str, statement: str) -> None:
    """The writer's sessions can change and delete nothing, set no knowledge_timestamp, and make no tables."""
    record(database, bar())
    with (
        psycopg.connect(conninfo(database_url, Role.WRITER)) as connection,
        pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable)) as caught,
    ):
        connection.execute(statement)
    assert "permission denied" in str(caught.value) or "must be owner" in str(caught.value)


@pytest.mark.parametrize("role", list(Role))
def test_sessions_have_the_role_they_say(database_url: str, role: Role) -> None:
    """A session begins in its role, and a reader's is read only."""
    with psycopg.connect(conninfo(database_url, role)) as connection:
        user, read_only = connection.execute(
            "select current_user, current_setting('transaction_read_only')"
        ).fetchone()
    assert user == ("ohlcv" if role is Role.OWNER else role)
    assert read_only == ("on" if role is Role.READER else "off")


def test_partitions_are_whole_days_of_sane_years_only(database_url: str) -> None:
    """The one function that makes tables for a writer makes none but partitions of UTC days."""
    with psycopg.connect(conninfo(database_url, Role.WRITER), autocommit=True) as connection:
        for wrong in (START_MS + 1, 0, START_MS * 1000):
            with pytest.raises(psycopg.errors.InvalidParameterValue):
                connection.execute("select ensure_bar_partitions(array[%s]::bigint[])", [wrong])


def test_database_without_tables_says_what_to_do(local_postgres, database_url: str) -> None:
    """Asking a database that was never migrated names the command that makes the tables."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("drop table bars, bar_revisions cascade")
    with pytest.raises(Refused, match="ohlcv db migrate"):
        record(Database(database_url), bar())
