"""Where `--output` may lead: what can be replaced is, whole or not at all; what cannot is written to, and stays what it is."""

import os
import stat
import subprocess
import sys
import threading
from datetime import date
from pathlib import Path

import pytest

from ohlcv_assets.instruments import Market
from ohlcv_assets.storage.lake import Signature
from ohlcv_assets_tests.builders import bars
from ohlcv_assets_tests.fixtures.program import SPOT, Program

_READ = ("read", "BTC/USDT", "--market", "spot", "--start", "2025-06-01", "--end", "2025-06-02", "--format", "csv")
_LINES = 1441


@pytest.fixture
def stored(program: Program) -> Program:
    """The program over a day of three symbols."""
    signature = Signature.daily(Market.SPOT, program.universe)
    program.lake.write_day(signature, date(2025, 6, 1), bars(SPOT, minutes=1440))
    return program


@pytest.mark.parametrize("is_there", [True, False], ids=["a file", "nothing yet"])
def test_a_link_stays_and_its_target_is_replaced(stored: Program, tmp_path: Path, is_there: bool) -> None:
    """The file that the link leads to, in another folder, is the new one; no draft is left in either."""
    (tmp_path / "kept").mkdir()
    target, link = tmp_path / "kept" / "bars.csv", tmp_path / "link.csv"
    if is_there:
        target.write_text("before")
    link.symlink_to(Path("kept") / "bars.csv")
    assert stored.run(*_READ, "-o", str(link)).code == 0
    assert link.is_symlink()
    assert len(target.read_text().splitlines()) == _LINES
    assert [path.name for path in target.parent.iterdir()] == ["bars.csv"]


def test_a_pipe_with_a_name_is_written_to(stored: Program, tmp_path: Path) -> None:
    """Who reads it gets every row, and it is a pipe still."""
    pipe, got = tmp_path / "pipe.csv", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()), daemon=True)
    reader.start()
    assert stored.run(*_READ, "-o", str(pipe)).code == 0
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    reader.join(timeout=30)
    assert len(got[0].splitlines()) == _LINES


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices, and could replace one")
def test_a_device_stays_a_device(stored: Program, tmp_path: Path) -> None:
    """One that is always full says so, with the exit code of what is refused."""
    full = tmp_path / "full"
    try:
        os.mknod(full, stat.S_IFCHR | 0o666, os.makedev(1, 7))
        full.open("wb").close()
    except PermissionError:
        pytest.skip("this machine lets nobody make devices here")
    ended = stored.run(*_READ, "-o", str(full))
    assert (ended.code, ended.err.splitlines()[0]) == (3, f"error: {full} cannot be written: No space left on device")
    assert stat.S_ISCHR(full.stat().st_mode)


@pytest.mark.parametrize("is_link", [True, False], ids=["as /dev/stdout", "/dev/fd/1"])
def test_standard_output_by_its_name_is_standard_output(stored: Program, tmp_path: Path, is_link: bool) -> None:
    """What a shell has appended to a file before stays there, and the rows come after it."""
    file, place = tmp_path / "all.csv", Path("/dev/fd/1")
    if is_link:
        # A link of our own: root's mistake would take the machine's.
        place = tmp_path / "stdout"
        place.symlink_to("/proc/self/fd/1")
    file.write_text("before\n")
    with file.open("ab") as appended:
        command = [sys.executable, "-m", "ohlcv_assets.cli", *_READ, "-o", str(place)]
        assert subprocess.run(command, stdout=appended, check=False).returncode == 0
    lines = file.read_text().splitlines()
    assert (lines[0], len(lines)) == ("before", 1 + _LINES)


def test_links_that_lead_to_each_other_and_folders_are_refused(stored: Program, tmp_path: Path) -> None:
    """Exit code 2, and nothing has changed."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.symlink_to(other)
    other.symlink_to(one)
    for place in (one, tmp_path):
        ended = stored.run(*_READ, "-o", str(place))
        assert (ended.code, ended.out) == (2, "")
        assert f"error: {place} cannot be written" in ended.err
