"""The lake under attack: killed, raced, damaged, filled up, cut off from S3. What is stored once stays whole.

The faults are real: SIGKILL, a limit on file size, flipped bits, and a proxy that loses the answers of a real S3 server.
"""

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
from datetime import date
from pathlib import Path
from threading import Barrier

import polars as pl
import pytest
import stamina

from ohlcv_assets.bars import VALUES
from ohlcv_assets.errors import (
    CorruptFile,
    LakeConflict,
    LakeUnavailable,
    Refused,
)
from ohlcv_assets.storage.bars_file import content_hash
from ohlcv_assets.storage.lake import Lake
from ohlcv_assets.storage.objects import open_store
from ohlcv_assets_tests.builders import bars
from ohlcv_assets_tests.fixtures.lake import S3Server
from ohlcv_assets_tests.fixtures.s3_proxy import S3Proxy
from ohlcv_assets_tests.integration.test_lake import DAILY, DAY, EXCHANGE_SAYS, overwrite


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
        overwrite(lake, written.key, bytes(damaged))
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
    overwrite(lake, written.key, buffer.getvalue())
    with pytest.raises(CorruptFile):
        lake.read_day(DAILY, DAY)


def test_a_damaged_day_can_be_written_again(lake: Lake) -> None:
    """Writing over a damaged day needs replace=True, and the damaged file is kept."""
    written = lake.write_day(DAILY, DAY, bars())
    damaged = lake.get(written.key)[:-100]
    overwrite(lake, written.key, damaged)
    with pytest.raises(CorruptFile, match="replace=True"):
        lake.write_day(DAILY, DAY, bars())
    again = lake.write_day(DAILY, DAY, bars(), replace=True)
    assert again.outcome == "replaced"
    assert lake.get(again.replaced_key or "") == damaged
    assert lake.read_day(DAILY, DAY).height == 20


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


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """A lake where no folder can be is refused, by name, and not tried again."""
    (tmp_path / "lake").write_text("no folder")
    with pytest.raises(Refused, match="lake"):
        Lake(str(tmp_path / "lake")).write_day(DAILY, DAY, bars())
