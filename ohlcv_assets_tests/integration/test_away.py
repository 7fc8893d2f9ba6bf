"""What a person at a terminal sees when a server is away: soon one error that says what to do, and nothing else; and who waits on."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import obstore
import psycopg
import pytest
import stamina
from obstore.store import S3Store
from pydantic import SecretStr
from stamina.instrumentation import RetryDetails

from ohlcv_assets.bars import Channel
from ohlcv_assets.cli.stores import first_contact_s, open_client, open_database, open_lake
from ohlcv_assets.cli.waiting import Told
from ohlcv_assets.errors import DatabaseUnavailable, LakeUnavailable, RateLimited
from ohlcv_assets.instruments import Market
from ohlcv_assets.orchestration.resources import DatabaseResource
from ohlcv_assets.settings import Settings, read_settings
from ohlcv_assets.storage.database import Database, Recorded
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.storage.objects import open_store
from ohlcv_assets.timestamps import Interval
from ohlcv_assets_tests.builders import bars
from ohlcv_assets_tests.fixtures.lake import S3Server
from ohlcv_assets_tests.fixtures.program import SPOT, Program
from ohlcv_assets_tests.fixtures.s3_proxy import S3Proxy
from ohlcv_assets_tests.integration.test_lake import DAILY, DAY

_SPAN = ("--start", "2025-06-01", "--end", "2025-06-02")
_STRETCH = ("--start-timestamp", "2025-06-01", "--end-timestamp", "2025-06-02")
_THE_DAY = ("--market", "spot", "--day", "2025-06-01")


@pytest.mark.parametrize(
    "command",
    [
        ("read", "BTC/USDT", "--market", "spot", *_SPAN, "--source", "streamed"),
        ("read", "BTC/USDT", "--market", "spot", *_SPAN, "--source", "stitched"),
        ("coverage", "--market", "spot", *_SPAN),
        ("ledger", *_THE_DAY),
        ("ledger", *_THE_DAY, "--now"),
        ("qa", "daily", *_THE_DAY),
        ("repair", *_THE_DAY),
        ("repair", *_THE_DAY, "--list"),
        ("db", "migrate"),
        ("db", "status"),
    ],
    ids=" ".join,
)
def test_a_database_that_is_away_is_one_error(
    program: Program, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """Asked again for as long as the setting says, without a line about each attempt; then the address, what to do, code 3."""
    monkeypatch.setenv("OHLCV_COMMAND_PATIENCE_S", "0.3")
    program.lake.write_day(Signature.daily(Market.SPOT, program.universe), date(2025, 6, 1), bars(SPOT))
    ended = program.run(*command)
    assert (ended.code, ended.out) == (3, "")
    error, hint = ended.err.splitlines()
    assert error.startswith("error: PostgreSQL is not available: connection to server at")
    assert "port 9 failed" in error
    assert hint == "  try: see that the server runs: ohlcv db status"


@pytest.mark.parametrize(
    "command",
    [
        ("backfill-db", "--market", "spot", *_SPAN),
        ("download-bulk", *_STRETCH, "--contract-type", "spot", "--data-format", "postgres"),
    ],
    ids=" ".join,
)
def test_a_backfill_into_a_database_that_is_away_is_one_error(
    program: Program, monkeypatch: pytest.MonkeyPatch, replay_exchange, command: tuple[str, ...]
) -> None:
    """It ends as the commands that read do: nothing was begun that waiting could save."""
    monkeypatch.setenv("OHLCV_COMMAND_PATIENCE_S", "0")
    monkeypatch.setenv("OHLCV_EXCHANGE_URL", replay_exchange.url)
    ended = program.run(*command)
    assert (ended.code, ended.out) == (3, "")
    error, hint = ended.err.splitlines()
    assert error.startswith("error: PostgreSQL is not available")
    assert hint == "  try: see that the server runs: ohlcv db status"


def test_an_exchange_that_is_away_is_one_error(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address, what to do, and at most one line about the waiting."""
    monkeypatch.setenv("OHLCV_EXCHANGE_URL", "http://127.0.0.1:9")
    ended = program.run("universe", "snapshot", "--market", "spot")
    assert ended.code == 3
    *waits, error, hint = ended.err.splitlines()
    assert waits in ([], ["waiting for the exchange"])
    assert error.startswith("error: http://127.0.0.1:9/api/v3/time does not tell the time")
    assert "OHLCV_EXCHANGE_URL" in hint


@pytest.mark.parametrize(
    "command",
    [
        ("read", "BTC/USDT", "--market", "spot", *_SPAN),
        ("coverage", "--market", "spot", *_SPAN, "--source", "daily"),
        ("qa", "daily", *_THE_DAY),
        ("repair", *_THE_DAY),
        ("download-bulk", *_STRETCH),
    ],
    ids=" ".join,
)
def test_a_lake_that_is_away_is_one_error(
    program: Program, monkeypatch: pytest.MonkeyPatch, database_url: str, command: tuple[str, ...]
) -> None:
    """An S3 that refuses the connection: the address, what to do, code 3; a download has asked no exchange before."""
    away = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    away |= {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "OHLCV_LAKE": "s3://bars/lake"}
    away |= {
        "OHLCV_COMMAND_PATIENCE_S": "0.3",
        "OHLCV_DATABASE_URL": database_url,
        "OHLCV_EXCHANGE_URL": "http://127.0.0.1:7",
    }
    for name, value in away.items():
        monkeypatch.setenv(name, value)
    ended = program.run(*command)
    assert (ended.code, ended.out) == (3, "")
    error, hint = ended.err.splitlines()
    assert error.startswith("error: s3://bars/lake/stockholm")
    assert "127.0.0.1:9" in error
    assert hint == "  try: look at AWS_ENDPOINT_URL, AWS_REGION and the network"


def failing(times: int, calls: list[int]) -> Callable[[psycopg.Connection], str]:
    """An action that finds its server away so many times."""

    def act(_: psycopg.Connection) -> str:
        calls.append(1)
        if len(calls) <= times:
            raise DatabaseUnavailable("away")
        return "done"

    return act


def test_who_has_met_the_database_waits_for_it(database_url: str) -> None:
    """Before the first answer an outage ends the call at once; after it, the same outage is survived."""
    calls: list[int] = []
    with Database(database_url, first_contact_s=0) as database:
        with pytest.raises(DatabaseUnavailable):
            database.written(failing(2, calls))
        assert len(calls) == 1
        calls.clear()
        assert database.keys(Market.SPOT, Interval.of_day(date(2025, 6, 1))).is_empty()
        assert database.written(failing(2, calls)) == "done"


def test_a_command_that_has_opened_the_database_waits_for_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a long job opens is opened at the first try or not at all, and then outlives an outage."""
    configured = Settings(database_url=database_url, command_patience_s=0)
    calls: list[int] = []
    with open_database(configured) as database:
        assert database.written(failing(2, calls)) == "done"


@pytest.mark.parametrize(
    ("is_terminal", "setting", "patience_s"),
    [(True, None, 3.0), (False, None, 60.0), (True, "7", 7.0), (False, "7", 7.0)],
)
def test_only_who_waits_at_a_terminal_is_soon_told(
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_terminal: bool,
    setting: str | None,
    patience_s: float,
) -> None:
    """Under cron and systemd a store is waited for from the beginning, as long as by a run; the setting says otherwise for both."""
    reading, writing = os.openpty() if is_terminal else os.pipe()
    if setting is not None:
        monkeypatch.setenv("OHLCV_COMMAND_PATIENCE_S", setting)
    configured = read_settings().model_copy(update={"database_url": SecretStr(database_url), "lake": str(tmp_path)})
    with os.fdopen(reading), os.fdopen(writing, "w") as stderr, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", stderr)
        lake, soon_s = open_lake(configured), first_contact_s(configured)
        with open_client(configured) as client:
            assert client._first_contact_s == soon_s
    assert lake._store.patience.seconds() == patience_s
    with Database(database_url, first_contact_s=soon_s) as database:
        assert database._patience.seconds() == patience_s


def test_a_run_waits_for_a_database_that_a_command_gives_up(
    program: Program, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At first contact, too: whatever the setting of the commands is, a run of Dagster has the patience that it always had."""
    away: list[int] = []

    def found(_: Settings) -> str:
        away.append(1)
        if len(away) <= 2:
            raise DatabaseUnavailable("away")
        return database_url

    monkeypatch.setattr("ohlcv_assets.storage.database.bars_url", found)
    monkeypatch.setenv("OHLCV_COMMAND_PATIENCE_S", "0")
    with pytest.raises(DatabaseUnavailable):
        open_database(read_settings())
    away.clear()
    with DatabaseResource().open() as database:
        assert database.record(bars(), channel=Channel.REST, run_id="run") == Recorded(20, 0, 0)


def test_who_has_met_the_lake_waits_for_it(s3_server: S3Server, s3_proxy: S3Proxy) -> None:
    """A busy S3 ends a first question after one attempt; whoever had an answer asks again."""
    lake = Lake(s3_server.new_url(), first_contact_s=0)
    s3_proxy.busy_answers = 2
    with pytest.raises(LakeUnavailable):
        lake.days(DAILY)
    assert s3_proxy.busy_answers == 1
    s3_proxy.busy_answers = 0
    assert lake.days(DAILY) == []
    with stamina.set_testing(True, attempts=6, cap=True):  # no pauses
        s3_proxy.busy_answers = 2
        lake.write_day(DAILY, DAY, bars())
    assert lake.days(DAILY) == [DAY]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["universe list", "universe list --json", "db status", "--help", "read --help"])
def test_an_output_that_is_full_says_so(command: str, unbuffered: str) -> None:
    """The error is about standard output, not about a folder of ours; Python adds no word of its own."""
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "ohlcv_assets.cli", *command.split()],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False, env={"PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert ended.returncode == 3
    assert ended.stderr.splitlines() == [
        "error: standard output cannot be written: No space left on device", "  try: send it where there is room"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "command",
    [
        ("read", "BTC/USDT", "--market", "spot", *_SPAN),
        ("coverage", "--market", "spot", *_SPAN, "--source", "daily"),
        ("ledger", *_THE_DAY),
        ("qa", "daily", *_THE_DAY),
        ("download-bulk", *_STRETCH),
    ],
    ids=" ".join,
)
def test_a_lake_below_a_file_is_named(
    program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """The file that is in the way and the setting that leads there are told, before any exchange is asked."""
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("OHLCV_LAKE", str(tmp_path / "file" / "lake"))
    monkeypatch.setenv("OHLCV_EXCHANGE_URL", "http://127.0.0.1:9")
    ended = program.run(*command)
    assert ended.code == 3
    error, hint = ended.err.splitlines()
    assert f"{tmp_path / 'file'} is a file, and no folder" in error
    assert hint == "  try: set OHLCV_LAKE, or --s3-path, to a folder"


def test_whether_it_can_be_written_leaves_nothing(lake: Lake, lake_url: str) -> None:
    """The question leaves no object behind, and no folder that was not there."""
    lake.insist_on_writing()
    assert lake._store.keys("x") == []
    assert not Path(lake_url).exists()


def test_whether_it_can_be_written_costs_no_object(
    s3_server: S3Server, s3_proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that knows no conditions writes what is tried: it has a name of its own, and is gone afterwards."""
    store, put = open_store(s3_server.new_url()), obstore.put
    store.put("probe", b"somebody's")
    tried: list[str] = []

    def unconditional(into: S3Store, key: str, content: bytes, **_: object) -> None:
        tried.append(key)
        put(into, key, content)

    monkeypatch.setattr(obstore, "put", unconditional)
    for _ in range(2):
        store.insist_on_writing()
    assert len({"probe", *tried}) == 3
    stored = store.get("probe")
    assert stored is not None
    assert stored.content == b"somebody's"
    assert [store.get(key) for key in tried] == [None, None]


def test_a_bucket_that_is_not_there_is_told_before_anything_is_fetched(
    program: Program, s3_server: S3Server, s3_proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No bucket of that name, or no right to write: the download ends before it has asked the exchange."""
    monkeypatch.setenv("OHLCV_EXCHANGE_URL", "http://127.0.0.1:9")
    line = ("download-bulk", *_STRETCH, "--s3-path")
    missing = program.run(*line, "s3://no-such-bucket/lake")
    assert (missing.code, missing.err.splitlines()[-1]) == (3, "  try: make the bucket, or correct OHLCV_LAKE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    refused = program.run(*line, s3_server.new_url())
    assert refused.code == 3
    assert "look at AWS_ACCESS_KEY_ID" in refused.err


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (("read", "", "--market", "spot", *_SPAN), "symbols"),
        (("read", "BTC/USDT", "", "--market", "spot", *_SPAN), "symbols"),
        (("read", "BTC/USDT", "--market", "spot", *_SPAN, "--resample", ""), "--resample"),
        (("coverage", "", "--market", "spot"), "symbols"),
        (("ledger", *_THE_DAY, "--universe", ""), "--universe"),
        (("universe", "show", " "), "version"),
        (("universe", "snapshot", "--quote", ""), "--quote"),
        (("verify", "--market", ""), "--market"),
        (("download-bulk", *_STRETCH, "--s3_path", ""), "--s3-path"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)  # fmt: skip
def test_what_is_given_as_nothing_is_refused(program: Program, command: tuple[str, ...], named: str) -> None:
    """An option or name that is empty, as a script's variable is that was never set, is never the default: code 2."""
    ended = program.run(*command)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: {named} is given as nothing\n  try: give a value")


@pytest.mark.parametrize("option", ["--quote", "--status"])
def test_a_list_without_a_word_is_refused(program: Program, option: str) -> None:
    """`--quote ,` chooses nothing; it is not the word for everything."""
    ended = program.run("universe", "snapshot", option, ",")
    assert ended.code == 2
    assert f"{option} any takes them all" in ended.err


def test_symbols_that_name_nothing_get_a_hint_that_can_be_typed(program: Program) -> None:
    """`ohlcv coverage ,` is told what to type, not what to write in Python."""
    ended = program.run("coverage", ",", "--market", "spot")
    assert ended.code == 2
    assert "None" not in ended.err


def test_waiting_is_told_in_one_line_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    """A short pause is not worth a word; a longer one is told once, by the name of who is waited for, however many attempts fail."""
    told = Told()
    for pause in range(6):
        told(_attempt(DatabaseUnavailable("away"), waited_s=float(pause)))
        assert capsys.readouterr().err == ("waiting for PostgreSQL\n" if pause == 2 else "")
    for error, name in ((LakeUnavailable("away"), "the lake"), (RateLimited("429", retry_after_s=9), "the exchange")):
        Told()(_attempt(error, waited_s=9.0))
        assert capsys.readouterr().err == f"waiting for {name}\n"


def _attempt(error: Exception, waited_s: float) -> RetryDetails:
    return RetryDetails("read", (), {}, 1, wait_for=0.5, waited_so_far=waited_s, caused_by=error)
