"""Shell completion, in a real bash: commands, options and values are offered, fast, and without a word when nothing can be."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ohlcv_assets.settings import settings
from ohlcv_assets_tests.fixtures.program import FUTURES, SPOT, Program

_BIN = Path(sys.executable).parent
#: As readline does it: the words so far, and which of them is being typed.
_ASK = """
eval "$(ohlcv --show-completion)"
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_ohlcv_completion ohlcv "${COMP_WORDS[$COMP_CWORD]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def offered(*words: str) -> list[str]:
    """What bash offers for the last of these words after `ohlcv`; whatever is written beside is a failure."""
    ended = _shell("bash", "--norc", "-c", _ASK, "bash", "ohlcv", *words)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.split()


def _shell(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize(
    ("shell", "says"),
    [("bash", "complete -o default -F"), ("zsh", "#compdef ohlcv"), ("fish", "complete --command ohlcv")],
)
def test_each_shell_gets_its_script(tmp_path: Path, shell: str, says: str) -> None:
    """The shell is known by the name of the process that calls: here a bash under each of the names."""
    caller = tmp_path / shell
    shutil.copy(shutil.which("bash"), caller)
    ended = _shell(str(caller), "-c", "ohlcv --show-completion; true")
    assert ended.returncode == 0, ended.stderr
    assert says in ended.stdout


@pytest.mark.parametrize(
    ("words", "some"),
    [
        (("cov",), ["coverage"]),
        (("universe", "sh"), ["show"]),
        (("coverage", "--mis"), ["--missing"]),
        (("download-bulk", "--start_"), ["--start_timestamp"]),
        (("download-bulk", "--start-"), ["--start-timestamp"]),
        (("coverage", "--market", ""), ["spot", "futures"]),
        (("coverage", "--source", ""), ["daily", "streamed", "both"]),
        (("read", "--source", "st"), ["streamed", "stitched"]),
        (("read", "--resample", "1"), ["15m", "1h", "12h", "1d"]),
        (("read", "--format", "j"), ["jsonl"]),
        (("download-bulk", "--data-format", ""), ["parquet", "postgres"]),
        (("ledger", "--market", "f"), ["futures"]),
        (("ledger", "--universe", ""), ["v0.1"]),
        (("universe", "diff", "v"), ["v0.1"]),
        (("coverage", "--market", "spot", ""), list(SPOT)),
        (("coverage", "--market", "futures", ""), list(FUTURES)),
        (("read", "ETH"), ["ETH/USDT", "ETH/USDT:USDT"]),
        (("read", "--market", "spot", "BTC/USDT,S"), ["BTC/USDT,SOL/USDT"]),
    ],
)
def test_what_can_be_typed_is_offered(program: Program, words: tuple[str, ...], some: list[str]) -> None:
    """Commands, options, and values: markets, versions, symbols of the market, sources, formats."""
    assert offered(*words) == some


@pytest.mark.parametrize(
    "words", [("read", "B"), ("ledger", "--universe", "v"), ("read", "--universe", "v9.9", "--market", "spot", "B")]
)
def test_what_cannot_be_looked_up_is_not_offered(
    program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Without a universe, or with one that cannot be read, nothing is offered and nothing is said."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "released.json").write_text("{", encoding="utf-8")
    monkeypatch.setenv("OHLCV_UNIVERSES", str(broken))
    settings.cache_clear()
    assert offered(*words) == []


def test_an_offer_loads_nothing_heavy(program: Program) -> None:
    """A key press does not wait for polars, matplotlib, a driver or Dagster to be loaded."""
    code = (
        "import sys\nfrom ohlcv_assets.cli import main\nsys.argv = ['ohlcv']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    asked = {"COMP_WORDS": "ohlcv coverage --market spot B", "COMP_CWORD": "4", "_OHLCV_COMPLETE": "complete_bash"}
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **asked}
    )
    assert ended.stdout.split() == ["BTC/USDT"]
    heavy = {"polars", "numpy", "matplotlib", "psycopg", "pyarrow", "ccxt", "dagster", "jinja2"}
    assert not [name for name in heavy if f"'{name}'" in ended.stderr]
