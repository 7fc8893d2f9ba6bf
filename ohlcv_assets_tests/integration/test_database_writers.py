"""The database of bars under many writers and a failing server: nothing twice, nothing lost, nothing for ever."""

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import polars as pl
import psycopg
import pytest

from ohlcv_assets.bars import CAPTURED_SCHEMA, Channel
from ohlcv_assets.errors import DatabaseUnavailable, Refused
from ohlcv_assets.instruments import Market
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage import postgres_process as process
from ohlcv_assets.storage.connections import Role, conninfo
from ohlcv_assets.storage.database import Database, Recorded
from ohlcv_assets.storage.local_postgres import LocalPostgres
from ohlcv_assets.storage.migrate import migrations
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, Interval
from ohlcv_assets_tests.integration.test_database import START_MS, bar

DAYS = Interval(START_MS - DAY_MS, START_MS + 2 * DAY_MS)
SYMBOLS = [f"S{number:02}/USDT:USDT" for number in range(40)]


def minutes_of_all(first: int, count: int, close: float = 11.0) -> pl.DataFrame:
    """The bars of forty symbols in consecutive minutes."""
    minutes = pl.DataFrame({"timestamp": [START_MS + minute * MINUTE_MS for minute in range(first, first + count)]})
    rest = bar(close=close).drop("symbol", "timestamp")
    return (
        pl.DataFrame({"symbol": SYMBOLS})
        .join(minutes, how="cross")
        .join(rest, how="cross")
        .select(list(CAPTURED_SCHEMA))
    )


def all_at_once(*actions: Callable[[], object]) -> list[object]:
    """What each action returned; they begin together, each in a thread."""
    barrier = threading.Barrier(len(actions))

    def run(action: Callable[[], object]) -> object:
        barrier.wait()
        return action()

    with ThreadPoolExecutor(len(actions)) as threads:
        return list(threads.map(run, actions))


def test_overlapping_writers_store_each_bar_once(database_url: str) -> None:
    """Four writers with overlapping batches in random orders, around midnight: no duplicate, no deadlock, no revision."""

    def writer(seed: int) -> Callable[[], list[Recorded]]:
        def write() -> list[Recorded]:
            shuffle = random.Random(seed)
            # Without patience a deadlock would not be healed but raised.
            with Database(database_url, patience_s=0) as database:
                return [
                    database.record(
                        minutes_of_all(shuffle.randrange(-6, 6), shuffle.choice((1, 5, 160))).sample(
                            fraction=1, shuffle=True, seed=seed
                        ),
                        channel=Channel.REST,
                        run_id=f"writer-{seed}",
                    )
                    for _ in range(12)
                ]

        return write

    results = [result for batch in all_at_once(*map(writer, range(4))) for result in batch]
    with Database(database_url) as database:
        stored = database.keys(Market.FUTURES, DAYS)
        assert database.revisions(Market.FUTURES, DAYS).is_empty()
    assert not stored.is_duplicated().any()
    assert sum(result.inserted for result in results) == stored.height
    assert sum(result.revised for result in results) == 0


def test_the_first_writers_of_a_day_do_not_harm_each_other(database_url: str) -> None:
    """Both markets' first bars of a new day, at the same moment, go in: nobody fails over the other's partition."""

    def writer() -> int:
        with Database(database_url, patience_s=10) as database:
            return sum(
                database.record(minutes_of_all(1440 * day, 1), channel=Channel.REST, run_id="run").inserted
                for day in range(3, 28)
            )

    assert sum(map(int, all_at_once(*[writer] * 4))) == 25 * len(SYMBOLS)  # type: ignore[call-overload]


def test_who_waited_for_the_first_writer_of_a_day_finds_its_partition(database_url: str) -> None:
    """Sessions that ask for the partitions of fifty new days, each at the same moment, all find them, without one error."""
    together = threading.Barrier(4)

    def ask() -> None:
        with psycopg.connect(conninfo(database_url, Role.WRITER), autocommit=True) as session:
            try:
                for day in range(50):
                    together.wait()
                    session.execute("select ensure_bar_partitions(array[%s::bigint])", [START_MS + day * DAY_MS])
            except BaseException:
                together.abort()
                raise

    all_at_once(*[ask] * 4)
    with psycopg.connect(database_url) as session:
        partitions = "select count(*) from pg_inherits where inhparent = 'bars'::regclass"
        assert session.execute(partitions).fetchone() == (50,)


def test_writers_that_disagree_make_an_honest_history(database_url: str) -> None:
    """However captures of two values interleave, no revision repeats the value that was known just before it."""

    def writer(number: int) -> Callable[[], int]:
        def write() -> int:
            with Database(database_url, patience_s=0) as database:
                return sum(
                    database.record(
                        minutes_of_all(0, 2, close=10.0 + (turn + number) % 2), channel=Channel.REST, run_id="run"
                    ).revised
                    for turn in range(15)
                )

        return write

    revised = sum(map(int, all_at_once(*map(writer, range(3)))))  # type: ignore[call-overload]
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            'select symbol, "timestamp", close, 0::bigint as revision from bars '
            'union all select symbol, "timestamp", close, revision from bar_revisions'
        ).fetchall()
    history = pl.DataFrame(rows, schema=["symbol", "timestamp", "close", "revision"], orient="row").sort("revision")
    repeated = history.filter((pl.col("close") == pl.col("close").shift(1)).over("symbol", "timestamp"))
    assert repeated.is_empty()
    assert history.height == 80 + revised
    assert revised > 0


def test_threads_share_one_database(database: Database) -> None:
    """One object used by several threads records every batch whole."""
    counts = all_at_once(
        *(
            lambda first=first: database.record(minutes_of_all(first, 3), channel=Channel.REST, run_id="run").inserted
            for first in (0, 3, 6, 9)
        )
    )
    assert counts == [120] * 4
    assert database.keys(Market.FUTURES, DAYS).height == 480


def test_migrations_race_is_won_once(local_postgres) -> None:
    """Several processes that make the tables of several new databases at once: each database has each migration once."""
    names = [f"raced_{os.getpid()}_{number}" for number in range(2)]
    with psycopg.connect(local_postgres.url("postgres"), autocommit=True) as connection:
        for name in names:
            connection.execute(f"create database {name} template template0")
    databases = [Database(local_postgres.url(name)) for name in names for _ in range(3)]
    applied = all_at_once(*(database.migrate for database in databases))
    every = len(migrations())
    assert sorted(map(len, applied)) == [0, 0, 0, 0, every, every]  # type: ignore[arg-type]
    with psycopg.connect(local_postgres.url("postgres"), autocommit=True) as connection:
        for name in names:
            connection.execute(f"drop database {name} with (force)")


def test_unreachable_server_is_a_transient_error_with_a_hint() -> None:
    """Nobody listens: the error is one to retry, says so, and says what to do."""
    with pytest.raises(DatabaseUnavailable, match="ohlcv db status") as caught:
        Database("postgresql://ohlcv:secret@127.0.0.1:1/bars", patience_s=0.2).keys(Market.SPOT, DAYS)
    assert caught.value.transient
    assert "secret" not in str(caught.value)
    with pytest.raises(DatabaseUnavailable):
        Database("postgresql://ohlcv:secret@127.0.0.1:1/bars", patience_s=0.2).record(
            bar(), channel=Channel.REST, run_id="run"
        )


@pytest.mark.parametrize(("old", "new"), [("ohlcv:", "ohlcv:x"), ("/test_", "/none_")])
def test_what_asking_again_cannot_mend_is_refused_at_once(database_url: str, old: str, new: str) -> None:
    """A wrong password or database is no reason to wait a minute."""
    for use in (
        lambda it: it.keys(Market.SPOT, DAYS),
        lambda it: it.record(bar(), channel=Channel.REST, run_id="run"),
    ):
        with pytest.raises(Refused):
            use(Database(database_url.replace(old, new), patience_s=600))


class CuttingProxy:
    """A TCP proxy before a server that cuts one connection just after its COMMIT was done, before the answer."""

    def __init__(self, port: int) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.target = port
        self.cuts_left = 1
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client = self.server.accept()[0]
                upstream = socket.create_connection(("127.0.0.1", self.target))
                threading.Thread(target=self._forward, args=(client, upstream), daemon=True).start()
                threading.Thread(target=self._back, args=(client, upstream), daemon=True).start()

    def _forward(self, client: socket.socket, upstream: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if b"COMMIT" in data and self.cuts_left:
                    self.cuts_left -= 1
                    client.shutdown(socket.SHUT_WR)
                upstream.sendall(data)
        with suppress(OSError):
            upstream.shutdown(socket.SHUT_WR)

    def _back(self, client: socket.socket, upstream: socket.socket) -> None:
        with suppress(OSError):
            while data := upstream.recv(65536):
                client.sendall(data)
        client.close()


def test_lost_acknowledgement_is_harmless(database_url: str) -> None:
    """A connection that is cut after the commit and before its answer: the retry finds all there, once."""
    port = urlsplit(database_url).port
    assert port is not None
    proxy = CuttingProxy(port)
    with Database(database_url.replace(f":{port}/", f":{proxy.port}/")) as database:
        result = database.record(minutes_of_all(0, 5), channel=Channel.REST, run_id="run")
        assert proxy.cuts_left == 0
        assert result == Recorded(0, 200, 0)
        assert database.keys(Market.FUTURES, DAYS).height == 200
    proxy.server.close()


# A server of one's own, to be stopped and killed ----------------------------------------------------------------------


@pytest.fixture
def live(open_folder: Path) -> Iterator[tuple[LocalPostgres, Database]]:
    """A server and database of this test alone."""
    settings = Settings(home=open_folder, database_url=None)
    with Database.open(settings) as database:
        yield LocalPostgres(open_folder), database


def restart_fast(local: LocalPostgres) -> None:
    local.down()
    local.up()


def restart_immediately(local: LocalPostgres) -> None:
    data = local.status().data_directory
    account = process.Account.of_owner(data)
    programs = process.programs(account)
    account.run(programs / "pg_ctl", "stop", "-m", "immediate", "-w", "-D", str(data))
    local.up()


def kill(local: LocalPostgres) -> None:
    """Nobody starts it again but the writer that misses it."""
    pid = local.status().pid
    assert pid is not None
    os.killpg(pid, signal.SIGKILL)


def test_restarts_under_load_lose_nothing(live: tuple[LocalPostgres, Database]) -> None:
    """A writer and a reader live through a fast restart, an immediate one and a kill -9, and every batch is there once."""
    local, database = live
    stop = threading.Event()
    batches: list[int] = []

    def write() -> None:
        while not stop.is_set():
            result = database.record(minutes_of_all(len(batches), 1), channel=Channel.REST, run_id="run")
            assert sum(result) == len(SYMBOLS)
            batches.append(len(batches))

    def read() -> None:
        while not stop.is_set():
            keys = database.keys(Market.FUTURES, DAYS)
            assert keys.height % len(SYMBOLS) == 0

    def disturb() -> None:
        try:
            for disturbance in (restart_fast, restart_immediately, kill):
                before = len(batches)
                while len(batches) < before + 20:
                    time.sleep(0.01)
                disturbance(local)
            before = len(batches)
            while len(batches) < before + 5:
                time.sleep(0.01)
        finally:
            stop.set()

    all_at_once(write, read, disturb)
    stored = database.keys(Market.FUTURES, DAYS)
    assert stored.height == len(batches) * len(SYMBOLS)
    assert not stored.is_duplicated().any()
    assert database.revisions(Market.FUTURES, DAYS).is_empty()


def test_writer_does_not_start_what_a_person_stopped(live: tuple[LocalPostgres, Database]) -> None:
    """While the server is stopped on purpose a writer waits, gives up in time, and leaves it stopped."""
    local, database = live
    database.record(bar(), channel=Channel.REST, run_id="run")
    database._patience.usual_s = 0.5
    local.down()
    with pytest.raises(DatabaseUnavailable):
        database.record(bar(1), channel=Channel.REST, run_id="run")
    assert local.status().running is False
    local.up()
    assert database.record(bar(1), channel=Channel.REST, run_id="run") == Recorded(1, 0, 0)


def test_a_server_that_is_down_at_the_very_start_is_waited_for(live: tuple[LocalPostgres, Database]) -> None:
    """Whoever opens the database while its server is away gets it once the server is back, or an error in time."""
    local, _ = live
    given = Settings(home=Path("unused"), database_url=local.up().url("ohlcv_stockholm"))
    local.down()
    with pytest.raises(DatabaseUnavailable):
        Database.open(given, patience_s=0.5)
    with ThreadPoolExecutor(1) as thread:
        opening = thread.submit(Database.open, given)
        time.sleep(0.3)
        assert not opening.done()
        local.up()
        with opening.result() as database:
            assert database.record(bar(), channel=Channel.REST, run_id="run") == Recorded(1, 0, 0)


def test_a_local_server_that_does_not_start_at_once_is_asked_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local server that fails to start twice, as on a busy machine, is there for whoever opens the database."""
    answers: list[Exception | str] = [DatabaseUnavailable("starting"), DatabaseUnavailable("starting"), database_url]

    def start(_: Settings) -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("ohlcv_assets.storage.database.bars_url", start)
    with Database.open(Settings(home=Path("unused"), database_url=None)) as database:
        assert database.record(bar(), channel=Channel.REST, run_id="run") == Recorded(1, 0, 0)


def test_killed_in_the_middle_of_a_batch_leaves_whole_batches_only(live: tuple[LocalPostgres, Database]) -> None:
    """A server killed while large batches are being stored has each of them whole or not at all."""
    local, database = live
    database._patience.usual_s = 30.0
    whole = minutes_of_all(0, 160).height

    def write() -> None:
        for number in range(3):
            database.record(minutes_of_all(number * 160, 160), channel=Channel.REST, run_id=f"batch-{number}")

    def disturb() -> None:
        time.sleep(0.25)
        kill(local)

    all_at_once(write, disturb)
    with psycopg.connect(local.up().url("ohlcv_stockholm")) as connection:
        counts = dict(connection.execute("select run_id, count(*) from bars group by run_id").fetchall())
    assert counts == {f"batch-{number}": whole for number in range(3)}
