"""The lake on a folder and on a real S3 server: what is stored once stays, whoever kills, races or damages it."""

import io
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path
from threading import Barrier

import polars as pl
import pyarrow.parquet as pq
import pytest
import stamina

from ohlcv_assets.bars import CAPTURED_SCHEMA, KEY, SCHEMA, VALUES
from ohlcv_assets.errors import (
    BadSetting,
    CorruptFile,
    DayMissing,
    InvalidBars,
    LakeConflict,
    LakeUnavailable,
    ObjectMissing,
    Refused,
    UsageError,
)
from ohlcv_assets.instruments import Market, Universe
from ohlcv_assets.storage.bars_file import ROW_GROUP_ROWS, content_hash
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.storage.objects import open_store
from ohlcv_assets.timestamps import MINUTE_MS
from ohlcv_assets_tests.builders import bars, corrupted, recorded, shuffled, without
from ohlcv_assets_tests.fixtures.lake import S3Server
from ohlcv_assets_tests.fixtures.s3_proxy import S3Proxy

DAY = date(2025, 6, 1)
UNIVERSE = Universe.of("v7.3", {Market.FUTURES: ["BTC/USDT:USDT", "ETH/USDT:USDT"], Market.SPOT: ["BTC/USDT"]})
DAILY = Signature.daily(Market.FUTURES, UNIVERSE)
EXCHANGE_SAYS = [*KEY, *VALUES]


def test_a_path_says_what_it_holds(lake: Lake, lake_url: str) -> None:
    """The key of a day is the dataset's signature and the date, below the lake's folder or bucket."""
    written = lake.write_day(DAILY, DAY, bars())
    assert written.key == (
        "periodic_daily/dagster/downloaded_1min/parquet/ohlcv/futures/v7_3/ccxt/binance/date=2025-06-01/bars.parquet"
    )
    assert written.location == f"{lake_url}/{written.key}" == lake.location(written.key)


def test_what_is_read_is_what_was_written(lake: Lake) -> None:
    """Every value comes back bit for bit, in the bar's columns, sorted, known since the moment of writing."""
    before = datetime.now(UTC)
    written = lake.write_day(DAILY, DAY, shuffled(bars(minutes=1440), 3), universe_hash=UNIVERSE.content_hash)
    read = lake.read_day(DAILY, DAY)
    assert (written.outcome, written.rows, written.replaced_key) == ("created", 2880, None)
    assert dict(read.schema) == SCHEMA
    assert read.select(list(CAPTURED_SCHEMA)).equals(bars(minutes=1440))
    assert read["knowledge_timestamp"].n_unique() == 1
    assert before <= read["knowledge_timestamp"][0] <= datetime.now(UTC)


def test_the_file_is_plain_parquet_with_its_own_proof(lake: Lake) -> None:
    """Anyone's reader sees zstd Parquet in row groups of 72,000 rows, with hash, schema version and universe noted."""
    frame = bars([f"S{number}/USDT:USDT" for number in range(60)], minutes=1440)
    written = lake.write_day(DAILY, DAY, frame, universe_hash=UNIVERSE.content_hash)
    file = pq.ParquetFile(io.BytesIO(lake.get(written.key)))
    noted = file.metadata.metadata
    assert noted[b"ohlcv.content_hash"].decode() == written.content_hash == content_hash(frame)
    assert noted[b"ohlcv.schema_version"] == b"1"
    assert noted[b"ohlcv.universe_hash"].decode() == UNIVERSE.content_hash
    assert [file.metadata.row_group(group).num_rows for group in range(2)] == [
        ROW_GROUP_ROWS,
        86_400 - ROW_GROUP_ROWS,
    ]
    assert file.metadata.row_group(0).column(3).compression == "ZSTD"
    assert file.schema_arrow.names == list(SCHEMA)


def test_the_same_content_again_leaves_the_object_as_it_is(lake: Lake) -> None:
    """A second download that says the same, at another time and in another order, changes not one byte."""
    first = lake.write_day(DAILY, DAY, bars())
    stored = lake.get(first.key)
    later = shuffled(bars(), 5).with_columns(pl.col("end_download_timestamp").dt.offset_by("1h"))
    again = lake.write_day(DAILY, DAY, later, replace=True)
    assert (again.outcome, again.content_hash, again.bytes) == ("unchanged", first.content_hash, len(stored))
    assert lake.get(first.key) == stored


@pytest.mark.parametrize("column", VALUES)
def test_other_content_is_a_conflict(lake: Lake, column: str) -> None:
    """One other value in any column raises, and what was stored stays."""
    first = lake.write_day(DAILY, DAY, bars())
    stored = lake.get(first.key)
    changes = {"open": pl.col("low"), "close": pl.col("low"), "high": pl.col("high") + 1, "low": pl.col("low") - 1}
    other = bars().with_columns(changes.get(column, pl.col(column) * 2).cast(SCHEMA[column]).alias(column))
    if column.startswith("taker"):
        other = bars().with_columns(pl.lit(0.0).alias(column))
    with pytest.raises(LakeConflict, match="replace=True"):
        lake.write_day(DAILY, DAY, other)
    assert lake.get(first.key) == stored


def test_fewer_bars_are_a_conflict(lake: Lake) -> None:
    """A day that lacks a bar which is stored already does not take its place."""
    lake.write_day(DAILY, DAY, bars())
    with pytest.raises(LakeConflict, match=r"\(20 bars\).*\(19 bars\)"):
        lake.write_day(DAILY, DAY, without(bars(), 4))


def test_what_is_replaced_is_kept(lake: Lake) -> None:
    """A replacement keeps each former content, byte for byte, where no scan picks it up."""
    versions = [bars(seed=seed) for seed in (1, 2, 1)]
    contents = []
    outcomes = []
    for version in versions:
        outcomes.append(lake.write_day(DAILY, DAY, version, replace=True))
        contents.append(lake.get(outcomes[-1].key))
    assert [written.outcome for written in outcomes] == ["created", "replaced", "replaced"]
    for former, written, content in zip(outcomes, outcomes[1:], contents, strict=False):
        assert written.replaced_key is not None
        assert former.content_hash.removeprefix("sha256:")[:12] in written.replaced_key
        assert lake.get(written.replaced_key) == content
    assert lake.days(DAILY) == [DAY]
    assert lake.scan(DAILY, [DAY]).select(EXCHANGE_SAYS).collect().equals(bars(seed=1).select(EXCHANGE_SAYS))


def test_a_scan_reads_the_days_asked_for(lake: Lake) -> None:
    """A scan over days gives their bars and no others, with filters and columns pushed down, and names a missing day."""
    days = [date(2025, 6, 1), date(2025, 6, 2), date(2025, 6, 4)]
    for day in days:
        lake.write_day(DAILY, day, bars(start=day.isoformat()))
    assert lake.days(DAILY) == days
    found = lake.scan(DAILY, days[1:]).filter(pl.col("symbol") == "ETH/USDT:USDT").select("timestamp", "close")
    expected = pl.concat([bars(start=day.isoformat()) for day in days[1:]]).filter(symbol="ETH/USDT:USDT")
    assert found.collect().equals(expected.select("timestamp", "close"))
    assert "SELECTION" in found.explain()
    with pytest.raises(DayMissing, match="date=2025-06-03"):
        lake.scan(DAILY, [date(2025, 6, 3)])
    assert dict(lake.scan(DAILY, []).collect_schema()) == SCHEMA


def test_a_day_that_is_not_there_is_named(lake: Lake) -> None:
    """Reading a missing day, or a missing object, says which; a lake without a folder is simply empty."""
    assert lake.days(DAILY) == []
    with pytest.raises(DayMissing, match="date=2025-06-01"):
        lake.read_day(DAILY, DAY)
    with pytest.raises(DayMissing, match="date=2025-06-01"):
        lake.read_day(DAILY, DAY, symbols=["BTC/USDT:USDT"])
    with pytest.raises(ObjectMissing, match="nowhere"):
        lake.get("qa/nowhere.html")


def test_symbols_are_read_without_the_rest_of_the_file(lake: Lake) -> None:
    """A reader of one symbol touches only its row group: it succeeds where another group is damaged, and a whole read fails."""
    symbols = [f"S{number:02}/USDT:USDT" for number in range(60)]
    frame = bars(symbols, minutes=1440)
    written = lake.write_day(DAILY, DAY, frame)
    content = bytearray(lake.get(written.key))
    content[1000:60_000] = bytes(59_000)  # all in the first row group, which holds 50 symbols
    _overwrite(lake, written.key, bytes(content))
    read = lake.read_day(DAILY, DAY, symbols=["S59/USDT:USDT", "ABSENT/USDT:USDT"])
    assert read.select(list(CAPTURED_SCHEMA)).equals(frame.filter(symbol="S59/USDT:USDT"))
    with pytest.raises(CorruptFile):
        lake.read_day(DAILY, DAY)


def test_pushdown_saves_the_network(s3_server: S3Server, s3_proxy: S3Proxy) -> None:
    """One symbol of a day on S3 costs a fraction of the day's bytes."""
    lake = Lake(s3_server.new_url())
    written = lake.write_day(DAILY, DAY, bars([f"S{number:03}/USDT:USDT" for number in range(200)], minutes=1440))
    before = s3_proxy.bytes_down
    assert lake.read_day(DAILY, DAY, symbols=["S199/USDT:USDT"]).height == 1440
    assert 100_000 < s3_proxy.bytes_down - before < written.bytes / 3


def test_a_damaged_day_is_never_taken_for_bars(lake: Lake) -> None:
    """Whatever bit is flipped, wherever a file is cut: reading gives the bars that were written, or CorruptFile."""
    written = lake.write_day(DAILY, DAY, bars(minutes=60))
    good = lake.read_day(DAILY, DAY)
    content = lake.get(written.key)
    choose = random.Random(7)
    errors = []
    for _ in range(40):
        damaged = bytearray(content)
        if choose.random() < 0.8:
            damaged[choose.randrange(len(damaged))] ^= 1 << choose.randrange(8)
        else:
            del damaged[choose.randrange(len(damaged)) :]
        _overwrite(lake, written.key, bytes(damaged))
        try:
            assert lake.read_day(DAILY, DAY).equals(good)
        except CorruptFile as error:
            errors.append(error)
    assert len(errors) >= 20
    assert all(written.location in error.message and error.hint for error in errors)


@pytest.mark.parametrize("column", [*VALUES, "end_download_timestamp", "knowledge_timestamp"])
def test_no_column_can_be_changed_behind_the_hashes(lake: Lake, column: str) -> None:
    """A readable file that differs in one value of any column, also of when the bar was known, is a damaged one."""
    written = lake.write_day(DAILY, DAY, bars())
    content = lake.get(written.key)
    frame = pl.read_parquet(io.BytesIO(content))
    one = pl.duration(microseconds=1) if column.endswith("timestamp") else 1
    changed = frame.with_columns(pl.when(pl.int_range(pl.len()) == 7).then(pl.col(column) + one).otherwise(column))
    buffer = io.BytesIO()
    noted = {name: text for name, text in pl.read_parquet_metadata(io.BytesIO(content)).items() if "ohlcv" in name}
    changed.write_parquet(buffer, metadata=noted)
    _overwrite(lake, written.key, buffer.getvalue())
    with pytest.raises(CorruptFile):
        lake.read_day(DAILY, DAY)


def test_a_damaged_day_can_be_written_again(lake: Lake) -> None:
    """Writing over a damaged day needs replace=True, and the damaged file is kept."""
    written = lake.write_day(DAILY, DAY, bars())
    damaged = lake.get(written.key)[:-100]
    _overwrite(lake, written.key, damaged)
    with pytest.raises(CorruptFile, match="replace=True"):
        lake.write_day(DAILY, DAY, bars())
    again = lake.write_day(DAILY, DAY, bars(), replace=True)
    assert again.outcome == "replaced"
    assert lake.get(again.replaced_key or "") == damaged
    assert lake.read_day(DAILY, DAY).height == 20


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (bars().clear(), "no bars"),
        (pl.concat([bars(), bars().head(1)]), "share their key"),
        (bars(start="2025-06-02"), "not futures bars of 2025-06-01"),
        (pl.concat([bars(), bars(["BTC/USDT"])]), "spot BTC/USDT"),
        (corrupted(bars(), 3, "high", 0.5), "high_is_highest"),
        (corrupted(bars(), 3, "close", float("nan")), "prices_positive"),
        (corrupted(bars(), 3, "end_download_timestamp", None), "end_download_timestamp"),
        (bars().drop("end_download_timestamp"), "end_download_timestamp"),
        (bars().drop("volume"), "columns missing"),
        (bars().with_columns(pl.col("close").cast(pl.Float32)), "another dtype"),
    ],
)
def test_nothing_wrong_is_stored(tmp_path: Path, broken: pl.DataFrame, says: str) -> None:
    """Bars that are none, doubled, broken, incomplete or of another day or market are refused before anything is written."""
    with pytest.raises(InvalidBars, match=says):
        Lake(str(tmp_path)).write_day(DAILY, DAY, broken)
    assert list(tmp_path.iterdir()) == []


def test_one_of_many_writers_wins(lake: Lake) -> None:
    """Of eight writers with different bars exactly one stores the day, and the others learn that it is there."""

    def write(seed: int) -> str:
        try:
            return lake.write_day(DAILY, DAY, bars(seed=seed)).content_hash
        except LakeConflict:
            return "conflict"

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(write, range(8)))
    assert outcomes.count("conflict") == 7
    assert content_hash(lake.read_day(DAILY, DAY)) in outcomes


def test_a_conditional_write_has_one_winner(lake_url: str) -> None:
    """However often four writers meet, one creates the object, and one of those who saw the same version replaces it."""
    store = open_store(lake_url)
    rounds = 3 if lake_url.startswith("s3://") else 60  # the test server takes half a second to settle a race
    with ThreadPoolExecutor(4) as pool:
        for turn in range(rounds):
            key, barrier = f"race-{turn}", Barrier(4)

            def write(writer: int, tag: str | None, key: str = key, barrier: Barrier = barrier) -> str | None:
                barrier.wait()
                return store.put_if(key, bytes([writer]) * 100, replacing=tag)

            created = [tag for tag in pool.map(write, range(4), [None] * 4) if tag]
            replaced = [tag for tag in pool.map(write, range(4, 8), created * 4) if tag]
            assert (len(created), len(replaced)) == (1, 1)


def test_no_replacement_is_lost_in_a_race(lake: Lake) -> None:
    """Of eight replacing writers each either conflicts or has its bars in the lake: in place, or kept under replaced/."""
    lake.write_day(DAILY, DAY, bars(seed=100))

    def replace(seed: int) -> str | None:
        try:
            return lake.write_day(DAILY, DAY, bars(seed=seed), replace=True).content_hash
        except LakeConflict:
            return None

    with ThreadPoolExecutor(8) as pool:
        accepted = {digest for digest in pool.map(replace, range(8)) if digest}
    kept = [key for key in lake._store.keys(DAILY.path) if "/replaced/" in key]
    there = {content_hash(pl.read_parquet(io.BytesIO(lake.get(key)))) for key in kept}
    assert accepted
    assert accepted <= there | {content_hash(lake.read_day(DAILY, DAY))}


_WRITER = """
import sys
from datetime import date
from ohlcv_assets.storage.lake import Lake
from ohlcv_assets_tests.builders import bars
from ohlcv_assets_tests.integration.test_lake import DAILY, DAY
lake = Lake(sys.argv[1])
versions = [bars([f"S{n}/USDT:USDT" for n in range(40)], minutes=1440, seed=seed) for seed in (1, 2)]
print("ready", flush=True)
for turn in range(10_000):
    lake.write_day(DAILY, DAY, versions[turn % 2], replace=True)
    print("written", flush=True)
"""


def test_kill_9_while_writing_leaves_a_whole_day_or_none(lake: Lake, lake_url: str) -> None:
    """A writer killed at any moment leaves the former file or the new one, never a torn one, and the next writer goes on."""
    choose = random.Random(11)
    for after_writes in (0, 0, 1, 3):
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, lake_url], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        for _ in range(1 + after_writes):
            assert writer.stdout.readline()
        time.sleep(choose.random() * 0.15)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        for day in lake.days(DAILY):
            assert lake.read_day(DAILY, day).height == 57_600  # verified by its hashes
    assert lake.write_day(DAILY, DAY, bars(), replace=True).outcome in {"created", "replaced"}


def test_the_debris_of_a_killed_writer_is_swept(tmp_path: Path) -> None:
    """A temporary file that lost its writer an hour ago goes at the next write beside it; a fresh one stays; neither is a day."""
    lake = Lake(str(tmp_path))
    written = lake.write_day(DAILY, DAY, bars())
    folder = Path(written.location).parent
    old, fresh = folder / ".bars.parquet.aa.tmp", folder / ".bars.parquet.bb.tmp"
    for debris in (old, fresh):
        debris.write_bytes(b"half")
    os.utime(old, (1_000_000_000, 1_000_000_000))
    assert lake.days(DAILY) == [DAY]
    lake.write_day(DAILY, DAY, bars(seed=8), replace=True)
    assert not old.exists()
    assert fresh.exists()


def test_a_full_disk_names_the_path_and_harms_nothing(tmp_path: Path) -> None:
    """A write that the disk has no room for raises, leaves the former day readable, and no temporary file."""
    lake = Lake(str(tmp_path))
    written = lake.write_day(DAILY, DAY, bars())
    worker = multiprocessing.get_context("spawn").Process(target=_write_with_a_file_limit, args=(str(tmp_path),))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert lake.read_day(DAILY, DAY).height == 20
    assert sorted(path.name for path in Path(written.location).parent.iterdir()) == ["bars.parquet", "replaced"]
    assert not list(tmp_path.rglob("*.tmp"))


def _write_with_a_file_limit(folder: str) -> None:
    sys.stdout = io.StringIO()  # the log would meet the limit, too
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    stamina.set_testing(True, attempts=2)
    try:
        Lake(folder).write_day(DAILY, DAY, bars(minutes=1440, seed=9), replace=True)
    except LakeUnavailable as error:
        sys.exit(0 if "date=2025-06-01" in error.message and "full" in (error.hint or "") else 1)
    sys.exit(2)


def test_a_lost_answer_is_no_conflict(s3_server: S3Server, s3_proxy: S3Proxy) -> None:
    """When S3 stored the day and its answer was lost, the retry finds our own bytes: created, and replaced, once each."""
    url = s3_server.new_url()
    lake = Lake(url)
    s3_proxy.lose_only = f"PUT {url.removeprefix('s3:/')}/{DAILY.key(DAY).replace('=', '%3D')}"
    s3_proxy.lose_answers = 1
    assert lake.write_day(DAILY, DAY, bars()).outcome == "created"
    assert (s3_proxy.lose_answers, s3_proxy.requests["PUT"]) == (0, 2)
    s3_proxy.lose_answers = 1
    assert lake.write_day(DAILY, DAY, bars(seed=8), replace=True).outcome == "replaced"
    assert (s3_proxy.lose_answers, s3_proxy.requests["PUT"]) == (0, 5)
    assert len(lake._store.keys(DAILY.path)) == 2
    assert lake.read_day(DAILY, DAY).select(EXCHANGE_SAYS).equals(bars(seed=8).select(EXCHANGE_SAYS))


def test_a_busy_store_is_asked_again_and_not_for_ever(s3_server: S3Server, s3_proxy: S3Proxy) -> None:
    """Two 503 answers are survived; a store that stays busy, or is not there, becomes LakeUnavailable, and nothing is stored."""
    lake = Lake(s3_server.new_url())
    with stamina.set_testing(True, attempts=4):
        s3_proxy.busy_answers = 2
        assert lake.write_day(DAILY, DAY, bars()).outcome == "created"
        s3_proxy.busy_answers = 1000
        with pytest.raises(LakeUnavailable, match="503"):
            lake.write_day(DAILY, date(2025, 6, 2), bars(start="2025-06-02"))
        s3_proxy.busy_answers = 0
        assert lake.days(DAILY) == [DAY]
        s3_proxy.close()
        with pytest.raises(LakeUnavailable, match="AWS_ENDPOINT_URL"):
            lake.read_day(DAILY, DAY)
        with pytest.raises(LakeUnavailable):
            lake.read_day(DAILY, DAY, symbols=["BTC/USDT:USDT"])


def test_a_wrong_secret_is_refused_at_once(
    s3_server: S3Server, s3_proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials that the store does not take are not tried again, and the error says where to look."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(Refused, match="AWS_ACCESS_KEY_ID"):
        Lake(s3_server.new_url()).days(DAILY)
    assert s3_proxy.requests["GET"] == 1


def test_other_objects_come_back(lake: Lake, lake_url: str) -> None:
    """Reports are stored beside the bars, over a former one, and cannot touch a day's bars or leave the lake."""
    assert lake.put("qa/futures/report.html", b"old") == f"{lake_url}/qa/futures/report.html"
    lake.put("qa/futures/report.html", b"new")
    assert lake.get("qa/futures/report.html") == b"new"
    for key in ("../out", "a/../../out", "/etc/passwd", "a//b", "", ".lock", "a\\b", "a\nb", DAILY.key(DAY)):
        with pytest.raises(UsageError):
            lake.put(key, b"x")


@pytest.mark.parametrize("part", ["", "..", "a/b", "../..", "a.b", "é", " v7", "v7\n", ".hidden"])
def test_a_signature_cannot_lead_out_of_the_lake(part: str) -> None:
    """A part that means something in a path is refused."""
    with pytest.raises(UsageError, match="universe="):
        Signature("a", "b", "c", "parquet", "ohlcv", "spot", part, "ccxt", "binance")


def test_only_folders_and_buckets_are_lakes() -> None:
    """Another scheme is a setting that cannot be used."""
    with pytest.raises(BadSetting, match="gs://bars"):
        Lake("gs://bars/x")


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """A lake where no folder can be is refused, by name, and not tried again."""
    (tmp_path / "lake").write_text("no folder")
    with pytest.raises(Refused, match="lake"):
        Lake(str(tmp_path / "lake")).write_day(DAILY, DAY, bars())


@pytest.mark.real_data
def test_a_recorded_day_survives_bit_for_bit(lake: Lake, recorded_data: Path) -> None:
    """A real day of sixteen futures comes back with every bit of every value."""
    real = recorded(recorded_data / "klines" / "um_rest_1m_2025-05-25_2025-06-03_A.parquet", Market.FUTURES)
    start_ms = 1_748_736_000_000
    day = real.filter(pl.col("timestamp").is_between(start_ms, start_ms + 1440 * MINUTE_MS, closed="left"))
    assert lake.write_day(DAILY, DAY, day).rows == 23_040
    read = lake.read_day(DAILY, DAY)
    assert all((read[name].to_numpy() == day[name].to_numpy()).all() for name in EXCHANGE_SAYS)
    assert [read[name].to_numpy().tobytes() for name in VALUES] == [day[name].to_numpy().tobytes() for name in VALUES]


def _overwrite(lake: Lake, key: str, content: bytes) -> None:
    """What no writer of the lake does: a disk or an operator changes a day's bytes."""
    lake._store.put(key, content)
