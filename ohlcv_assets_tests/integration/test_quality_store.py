"""What is known about the bars, against a real server: told once, kept to the letter, never taken back."""

import json
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import polars as pl
import psycopg
import pytest

from ohlcv_assets.errors import DatabaseUnavailable, InvalidBars, NaiveTime, Refused
from ohlcv_assets.instruments import Market
from ohlcv_assets.storage.connections import Role, conninfo
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.quality_store import (
    DECISIONS,
    FINDINGS_SCHEMA,
    REPAIRS_SCHEMA,
    SIDES,
    STREAM_MINUTES_SCHEMA,
    QualityStore,
)
from ohlcv_assets.timestamps import MINUTE_MS, Interval
from ohlcv_assets_tests.integration.test_database import DAY, START_MS

FUTURES = Market.FUTURES


@pytest.fixture
def store(database: Database) -> QualityStore:
    return QualityStore(database)


def stream_rows(first: int = 0, count: int = 3, run_id: str = "run", **values: object) -> pl.DataFrame:
    row = {"market": "futures", "run_id": run_id, "shard": "1/1", "connected_s": 60.0, "bars_expected": 20, "bars_present": 20}  # fmt: skip
    rows = [{**row, "minute_ms": START_MS + minute * MINUTE_MS, **values} for minute in range(first, first + count)]
    return pl.DataFrame(rows, schema=STREAM_MINUTES_SCHEMA)


def repair_rows(minute: int = 0, **values: object) -> pl.DataFrame:
    row = {
        "market": "futures", "symbol": "BTC/USDT:USDT", "timestamp": START_MS + minute * MINUTE_MS, "side": "streamed",
        "decision": "streamed_was_wrong", "reason": "a third fetch agrees with the fetched bar",
        "sources": '{"third":  {"close": 0.10}, "a": 1}', "before": '{"close":0.1}', "after": '{"close":0.10}',
        "run_id": "run",
    }  # fmt: skip
    return pl.DataFrame([row | values], schema=REPAIRS_SCHEMA)


def find(store: QualityStore, fingerprint: str = "f", **values: object) -> bool:
    said = {
        "market": "futures",
        "kind": "streamed_equals_fetched",
        "sentence": "2 bars differ",
        "detail": {"bars": 2},
    }
    return store.record_finding(fingerprint, **(said | values), run_id="run")  # type: ignore[arg-type]


def losing_the_first_answer(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the next write's answer be lost after its commit, as a network does."""
    written = database._written
    lost = iter([True])

    def answer(action: Callable[[psycopg.Connection], object]) -> object:
        result = written(action)
        if next(lost, False):
            raise DatabaseUnavailable("the answer was lost")
        return result

    monkeypatch.setattr(database, "_written", answer)


# The connection log -------------------------------------------------------------------------------------------------


def test_the_connection_log_is_told_once(store: QualityStore) -> None:
    """A minute of a run is stored once: telling it again adds only what is new, and changes nothing."""
    assert store.record_stream_minutes(stream_rows()) == 3
    assert store.record_stream_minutes(stream_rows(1, 4, connected_s=1.0)) == 2
    found = store.stream_minutes(FUTURES, DAY)
    assert dict(found.schema) == STREAM_MINUTES_SCHEMA
    assert found["connected_s"].to_list() == [60.0, 60.0, 60.0, 1.0, 1.0]
    assert store.record_stream_minutes(stream_rows().clear()) == 0


def test_runs_and_shards_tell_of_the_same_minute(store: QualityStore) -> None:
    """Two runs and two shards of a market each have their own row a minute; reads are half-open and of one market."""
    for run_id, shard in (("a", "1/2"), ("a", "2/2"), ("b", "1/2")):
        store.record_stream_minutes(stream_rows(run_id=run_id, shard=shard))
    store.record_stream_minutes(stream_rows(market="spot"))
    found = store.stream_minutes(FUTURES, Interval(START_MS + MINUTE_MS, START_MS + 2 * MINUTE_MS))
    assert found.select("minute_ms", "shard", "run_id").rows() == [
        (START_MS + MINUTE_MS, "1/2", "a"),
        (START_MS + MINUTE_MS, "1/2", "b"),
        (START_MS + MINUTE_MS, "2/2", "a"),
    ]


@pytest.mark.parametrize(
    "broken",
    [
        stream_rows(connected_s=60.5),
        stream_rows(connected_s=None),
        stream_rows(bars_present=-1),
        stream_rows().with_columns(pl.col("minute_ms") + 1),
        stream_rows().drop("shard"),
        stream_rows().with_columns(pl.col("bars_present").cast(pl.Float64)),
    ],
)
def test_what_cannot_be_is_not_logged(store: QualityStore, broken: pl.DataFrame) -> None:
    """More than sixty seconds in a minute, no minute at all, or another schema stores nothing."""
    with pytest.raises(InvalidBars):
        store.record_stream_minutes(broken)
    assert store.stream_minutes(FUTURES, DAY).is_empty()


# Repairs ------------------------------------------------------------------------------------------------------------


def test_a_decision_is_kept_to_the_letter(store: QualityStore) -> None:
    """What was compared comes back as it was written, with an id and the time at which the store took it."""
    before = datetime.now(UTC)
    assert store.record_repairs(repair_rows()) == 1
    found = store.repairs(FUTURES, DAY)
    assert found.select(list(REPAIRS_SCHEMA)).equals(repair_rows())
    assert found.columns[-2:] == ["repair", "knowledge_timestamp"]
    assert before <= found["knowledge_timestamp"].item() <= datetime.now(UTC)


def test_the_same_decision_of_a_run_is_stored_once(store: QualityStore) -> None:
    """Said again it is not stored again; another run's, another decision's or another value's is."""
    others = [
        repair_rows(),
        repair_rows(run_id="other"),
        repair_rows(decision="undecided"),
        repair_rows(side="fetched"),
        repair_rows(after=None),
        repair_rows(before=None),
        repair_rows(sources="[1]"),
        repair_rows(1),
    ]
    assert store.record_repairs(pl.concat(others)) == len(others)
    assert store.record_repairs(pl.concat(others)) == 0
    assert store.repairs(FUTURES, DAY).height == len(others)


@pytest.mark.parametrize(("column", "values"), [("side", SIDES), ("decision", DECISIONS)])
def test_every_word_of_a_decision_is_known_to_the_table(
    store: QualityStore, column: str, values: Sequence[str]
) -> None:
    """The sides and decisions named in Python are those that the table takes, and no others."""
    assert store.record_repairs(pl.concat([repair_rows(**{column: value}) for value in values])) == len(values)
    with pytest.raises(InvalidBars):
        store.record_repairs(repair_rows(**{column: "guessed"}))


def test_broken_json_is_refused(store: QualityStore) -> None:
    """Sources that are no JSON store nothing."""
    with pytest.raises(Refused, match="json"):
        store.record_repairs(pl.concat([repair_rows(), repair_rows(1, sources="{'a': 1}")]))
    assert store.repairs(FUTURES, DAY).is_empty()


# Findings -----------------------------------------------------------------------------------------------------------


def test_a_finding_is_told_once(store: QualityStore) -> None:
    """The first to store a fingerprint is told so, the others are not, and the first one's words stay."""
    assert find(
        store, sentence="first", market=None, detail={"when": datetime(2025, 6, 1, tzinfo=UTC), "x": float("nan")}
    )
    assert not find(store, sentence="second")
    assert find(store, "another")
    found = store.findings()
    assert dict(found.schema) == FINDINGS_SCHEMA
    assert found.select("fingerprint", "market", "sentence").rows() == [
        ("f", None, "first"),
        ("another", "futures", "2 bars differ"),
    ]
    assert json.loads(found["detail"][0]) == {"when": "2025-06-01 00:00:00+00:00", "x": "NaN"}


def test_findings_are_read_since_a_moment(store: QualityStore) -> None:
    """Only what was found at that moment or later is read; a time without a zone is refused."""
    find(store, "old")
    moment = datetime.now(UTC)
    find(store, "new")
    assert store.findings(moment)["fingerprint"].to_list() == ["new"]
    with pytest.raises(NaiveTime):
        store.findings(datetime(2025, 6, 1))  # noqa: DTZ001


def test_of_many_finders_one_is_the_first(database_url: str) -> None:
    """When many find the same at once exactly one is to tell it."""
    told: list[bool] = []

    def finder() -> None:
        with Database(database_url, patience_s=20) as database:
            told.append(find(QualityStore(database)))

    threads = [threading.Thread(target=finder) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == [False] * 5 + [True]


def test_a_lost_answer_does_not_silence_a_finding(
    store: QualityStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever stored a finding and lost the answer is still the first to tell it."""
    losing_the_first_answer(database, monkeypatch)
    assert find(store)
    assert not find(store)


# Rights -------------------------------------------------------------------------------------------------------------

_TABLES = ("stream_minutes", "repairs", "ledger_days", "ledger_ranges", "findings")


@pytest.mark.parametrize("role", [Role.WRITER, Role.READER])
def test_nothing_known_can_be_taken_back(database_url: str, role: Role) -> None:
    """Neither writer nor reader can change or remove a row of these tables."""
    with psycopg.connect(conninfo(database_url, role), autocommit=True) as connection:
        connection.execute("set default_transaction_read_only = off")
        for table in _TABLES:
            assert connection.execute(f"select count(*) from {table}").fetchone() == (0,)
            column = "symbol" if table == "ledger_ranges" else "run_id"
            update = f"update {table} set {column} = {column}"
            for statement in (f"delete from {table}", f"truncate {table} cascade", update, f"drop table {table}"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement)


@pytest.mark.parametrize(
    ("table", "column"),
    [
        *((table, "knowledge_timestamp") for table in _TABLES if table != "ledger_ranges"),
        ("repairs", "repair"),
        ("ledger_days", "version"),
        ("findings", "finding"),
    ],
)
def test_ids_and_knowledge_are_the_databases_own(database_url: str, table: str, column: str) -> None:
    """A writer cannot say when something became known, nor which number it has."""
    with (
        psycopg.connect(conninfo(database_url, Role.WRITER), autocommit=True) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(f"insert into {table} ({column}) values (default)")


def test_a_reader_writes_nothing(database_url: str) -> None:
    """The reader cannot add a row to any of these tables."""
    with psycopg.connect(conninfo(database_url, Role.READER), autocommit=True) as connection:
        connection.execute("set default_transaction_read_only = off")
        for table in _TABLES:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"insert into {table} default values")
