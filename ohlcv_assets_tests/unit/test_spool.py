"""Promises of the spool: whatever is given to it is there whole, in order and once, wherever a run is killed."""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from ohlcv_assets.bars import Bar, Channel, captured_frame
from ohlcv_assets.errors import CorruptFile, DatabaseUnavailable, InvalidBars, Refused
from ohlcv_assets.instruments import Market
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.spool import Origin, Spool
from ohlcv_assets.timestamps import MINUTE_MS, parse_time

NOON_MS = parse_time("2025-06-01T12:00Z")
MIB = 2**20
LIVE = Origin(Channel.WEBSOCKET, "run-1")


def batch(minute: int, symbols: int = 3, close: float = 1.5) -> pl.DataFrame:
    """Bars of one minute; every value is another one."""
    now = datetime(2025, 6, 1, 12, 0, 1, 123456, tzinfo=UTC)
    return captured_frame(
        [
            Bar("futures", f"S{index}/USDT:USDT", NOON_MS + minute * MINUTE_MS, 1.0, 3.0, 0.1 + 0.2, close, 7.5, 11.25, 3, 0.5, 0.75, now)
            for index in range(symbols)
        ]
    )  # fmt: skip


class Log:
    """A store that remembers what it was given, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[pl.DataFrame, Origin]] = []

    def __call__(self, bars: pl.DataFrame, origin: Origin) -> None:
        """Remember them."""
        self.calls.append((bars, origin))

    def rows(self) -> list[tuple[object, ...]]:
        """Every row, in order."""
        return [row for bars, _ in self.calls for row in bars.iter_rows()]


def drained(spool: Spool) -> Log:
    log = Log()
    while spool.drain(log):
        pass
    return log


@contextmanager
def a_spool(limit_bytes: int = 8 * MIB) -> Iterator[Spool]:
    with tempfile.TemporaryDirectory() as folder:
        yield Spool(Path(folder) / "futures", limit_bytes=limit_bytes)


def test_what_goes_in_comes_out_bit_for_bit():
    """A batch comes back with every value, dtype and its origin unchanged, and its file is gone."""
    with a_spool() as spool:
        path = spool.append(batch(0), LIVE)
        assert path is not None
        assert not spool.is_recorded(path)
        log = drained(spool)
        assert_frame_equal(log.calls[0][0], batch(0), check_exact=True)
        assert log.calls[0][1] == LIVE
        assert spool.is_recorded(path)
        assert spool.waiting() == []


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(Channel), st.sampled_from(["a", "b"])), max_size=25))
def test_batches_are_recorded_in_their_order_and_once(given_batches):
    """Every bar is recorded once, under its own origin, and two values of one bar in the order of their capture."""
    with a_spool() as spool:
        rows = []
        for number, (minute, channel, run) in enumerate(given_batches):
            bars, origin = batch(minute, close=1.5 + number / 100), Origin(channel, run)
            assert spool.append(bars, origin)
            rows += [(row, origin) for row in bars.iter_rows()]
        log = drained(spool)
        assert [(row, origin) for bars, origin in log.calls for row in bars.iter_rows()] == rows
        for bars, _ in log.calls:
            assert bars.select("symbol", "timestamp").is_unique().all()


def test_many_small_batches_are_recorded_in_few_statements():
    """Two hours of batches go in by some thousand bars at a time."""
    with a_spool() as spool:
        for minute in range(40):
            spool.append(batch(minute, symbols=400), LIVE)
        log = drained(spool)
    assert sum(bars.height for bars, _ in log.calls) == 16_000
    assert len(log.calls) == 4


def test_the_oldest_are_kept_when_it_is_full():
    """What does not fit is refused, and nothing that waits is given up for it; there is room again when bars are in."""
    with a_spool(limit_bytes=20_000) as spool:
        taken = []
        while (path := spool.append(batch(len(taken)), LIVE)) is not None:
            taken.append(path)
        assert len(taken) > 3
        assert sum(file.size for file in spool.waiting()) <= 20_000
        assert [file.path for file in spool.waiting()] == taken
        assert len(drained(spool).rows()) == 3 * len(taken)
        assert spool.append(batch(0), LIVE) is not None


def test_the_default_limit_holds_two_hours_of_400_symbols_one_bar_a_file(tmp_path):
    """Even when every bar comes alone, the default limit is enough for two hours of 400 symbols."""
    path = Spool(tmp_path / "s", limit_bytes=MIB).append(batch(0, symbols=1), LIVE)
    assert path.stat().st_size * 2 * 60 * 400 < Settings().spool_limit_mib * MIB


def test_an_unavailable_database_leaves_everything_as_it_was():
    """When recording fails, no file is removed, and a later attempt records the same."""
    with a_spool() as spool:
        for minute in range(3):
            spool.append(batch(minute), LIVE)
        before = spool.waiting()

        def away(*_: object) -> None:
            raise DatabaseUnavailable("away")

        with pytest.raises(DatabaseUnavailable):
            spool.drain(away)
        assert spool.waiting() == before
        assert len(drained(spool).rows()) == 9


def test_bars_that_the_database_refuses_do_not_block_the_others():
    """Only the refused batch is set aside and said to be lost; all others go in."""
    with a_spool() as spool:
        paths = [spool.append(batch(minute), LIVE) for minute in range(3)]
        log = Log()

        def picky(bars: pl.DataFrame, origin: Origin) -> None:
            if NOON_MS + MINUTE_MS in bars["timestamp"]:
                raise InvalidBars("no")
            log(bars, origin)

        assert spool.drain(picky) == 6
        assert [path.exists() for path in paths] == [False] * 3
        assert spool.is_recorded(paths[0])
        with pytest.raises(CorruptFile):
            spool.is_recorded(paths[1])
        assert {row[2] for row in log.rows()} == {NOON_MS, NOON_MS + 2 * MINUTE_MS}


@settings(max_examples=30)
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255), st.booleans())
def test_a_damaged_file_is_never_recorded(position, flip, cut):
    """One changed byte or a cut end is found: the file is set aside, its writer is told, the rest goes in."""
    with a_spool() as spool:
        path, other = spool.append(batch(0), LIVE), spool.append(batch(1), LIVE)
        content = bytearray(path.read_bytes())
        at = int(position * len(content))
        content[at] ^= flip
        path.write_bytes(content[:at] if cut else content)
        assert {row[2] for row in drained(spool).rows()} == {NOON_MS + MINUTE_MS}
        assert spool.is_recorded(other)
        with pytest.raises(CorruptFile):
            spool.is_recorded(path)


def test_a_run_that_is_killed_leaves_whole_batches_or_none(tmp_path):
    """Killed at any moment of writing, every batch whose append returned is there, and no other is half there."""
    for trial in range(3):
        folder = tmp_path / f"s{trial}"
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        writer = context.Process(target=_append_for_ever, args=(folder, sender))
        writer.start()
        sender.close()
        acknowledged = [receiver.recv() for _ in range(3 + 11 * trial)]
        writer.kill()
        writer.join()
        while receiver.poll():
            try:
                acknowledged.append(receiver.recv())
            except EOFError:
                break
        minutes = [row[2] for row in drained(Spool(folder, limit_bytes=64 * MIB)).rows()]
        recorded = sorted(set(minutes))
        assert len(minutes) == 3 * len(recorded)
        assert set(acknowledged) <= set(recorded)
        assert len(recorded) <= len(acknowledged) + 1
        assert list(folder.glob("*.unusable")) == []


def _append_for_ever(folder: Path, sender) -> None:
    spool = Spool(folder, limit_bytes=64 * MIB)
    for minute in range(100_000):
        spool.append(batch(minute), LIVE)
        sender.send(NOON_MS + minute * MINUTE_MS)


def test_a_kill_between_recording_and_removing_records_again(tmp_path):
    """The next run records the batch once more, which the database takes for the same: nothing is lost."""
    folder = tmp_path / "s"
    Spool(folder, limit_bytes=MIB).append(batch(0), LIVE)
    killed = multiprocessing.get_context("spawn").Process(target=_die_after_recording, args=(folder,))
    killed.start()
    killed.join()
    assert killed.exitcode == 9
    assert len(drained(Spool(folder, limit_bytes=MIB)).rows()) == 3


def _die_after_recording(folder: Path) -> None:
    Spool(folder, limit_bytes=MIB).drain(lambda *_: os._exit(9))


def test_two_runs_take_turns(tmp_path):
    """While one run takes the spool in, the other leaves it alone, and its own files may be recorded by the first."""
    one, other = (Spool(tmp_path / "s", limit_bytes=MIB) for _ in range(2))
    mine, theirs = one.append(batch(0), LIVE), other.append(batch(1), LIVE)
    seen = []
    assert one.drain(lambda bars, _: seen.append((bars.height, other.drain(Log())))) == 6
    assert seen == [(6, 0)]
    assert one.is_recorded(mine)
    assert other.is_recorded(theirs)


def test_files_stay_in_order_when_the_machines_clock_is_set_back(tmp_path, monkeypatch):
    """A batch that is appended later is recorded later, whatever the clock says, also by a later run."""
    monkeypatch.setattr(time, "time_ns", lambda: 2_000_000_000_000_000_000)
    Spool(tmp_path / "s", limit_bytes=MIB).append(batch(0), LIVE)
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000_000_000_000)
    later = Spool(tmp_path / "s", limit_bytes=MIB)
    later.append(batch(1), LIVE)
    later.append(batch(2), LIVE)
    assert [row[2] for row in drained(later).rows()][::3] == [NOON_MS + minute * MINUTE_MS for minute in range(3)]


def test_a_disk_that_cannot_be_written_refuses_and_leaves_no_draft(tmp_path):
    """An error of the disk is no error of the capture: the batch is refused, and nothing half is left."""
    spool = Spool(tmp_path / "s", limit_bytes=MIB)
    (tmp_path / "s").rmdir()
    assert spool.append(batch(0), LIVE) is None
    (tmp_path / "s").mkdir()
    assert spool.append(batch(0), LIVE) is not None


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    """A home that is a file is told at once, not when the database goes away."""
    (tmp_path / "spool").write_text("no folder")
    with pytest.raises(Refused, match="cannot be made"):
        Spool.of(Settings(home=tmp_path), Market.SPOT)


def test_markets_and_regions_have_folders_of_their_own(tmp_path):
    """What one market's run finds is its own market's."""
    folders = {
        Spool.of(Settings(home=tmp_path, region=region), market).folder
        for region in ("stockholm", "tokyo")
        for market in Market
    }
    assert len(folders) == 4
    assert all(folder.is_relative_to(tmp_path / "spool") for folder in folders)
