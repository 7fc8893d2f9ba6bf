"""Promises of the pages that are followed: what they tell to type works as they show it, from an empty folder on.

The tutorial is typed into a real shell, with a real replay exchange and PostgreSQL. The examples of the other pages then read
what it left.
"""

import ast
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import polars as pl
import psycopg
import pytest

from ohlcv_assets.storage.local_postgres import LocalPostgres
from ohlcv_assets.storage.postgres_process import Account, programs
from ohlcv_assets_tests.docs.client_page import CLIENT_PAGE, COLUMNS, schema_of
from ohlcv_assets_tests.docs.pages import DOCS, ROOT, blocks
from ohlcv_assets_tests.docs.shell import Answer, Shell, Step, follow, mismatch, steps
from ohlcv_assets_tests.fixtures.lake import S3Server
from ohlcv_assets_tests.fixtures.postgres import open_temporary_folder

_TUTORIAL = DOCS / "tutorial" / "first-bars.md"
_MOVE = DOCS / "how-to" / "move-to-rds-and-s3.md"
_PORT = "8900"
_LAST = "kill %1"
_PICTURE = DOCS / "images" / "tutorial_plot.png"


@dataclass(frozen=True)
class Followed:
    """The tutorial, followed up to where everything is put away."""

    folder: Path
    shell: Shell
    variables: dict[str, str]
    answers: list[Answer]


def _environment() -> dict[str, str]:
    """Ours, without any setting of the package; this environment's programs first, and last a psql where the system has none."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("OHLCV_", "DAGSTER_"))}
    path = [str(Path(sys.executable).parent), others["PATH"], str(programs(Account()))]
    return {**others, "PATH": ":".join(path), "COLUMNS": "200", "MPLBACKEND": "agg"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def followed() -> Iterator[Followed]:
    """The tutorial in a fresh folder, its servers still running."""
    with open_temporary_folder() as folder:
        port = str(_free_port())
        shell = Shell(folder, _environment())
        try:
            answers = follow(_TUTORIAL, shell, folder, {_PORT: port}, until=_LAST)
            settings = {"OHLCV_HOME": str(folder / "data"), "OHLCV_EXCHANGE_URL": f"http://127.0.0.1:{port}"}
            yield Followed(folder, shell, settings, answers)
        finally:
            shell.close()
            LocalPostgres(folder / "data").down()


def test_the_tutorial_answers_as_it_shows(followed: Followed) -> None:
    """Every command of the tutorial, typed in order into an empty folder, answers what the page shows below it."""
    wrong = [found for answer in followed.answers if (found := mismatch(answer, followed.variables))]
    assert not wrong, "\n\n".join(wrong)


def test_the_tutorial_finds_what_it_says_and_nothing_else(followed: Followed) -> None:
    """The refused read and the comparison of the broken bar end with 1, all else with 0."""
    ended = [(answer.step.command, answer.code) for answer in followed.answers if answer.code]
    assert [code for _, code in ended] == [1, 1]
    assert [command for command, _ in ended] == [
        "ohlcv read BTC/USDT --market spot --start 2025-06-01 --end 2025-06-02 --verified",
        "ohlcv qa daily --market spot --day 2025-06-01",
    ]


def test_the_picture_on_the_page_is_what_the_reader_gets(followed: Followed, tmp_path: Path) -> None:
    """docs/images/tutorial_plot.png is drawn by the tutorial's own code."""
    drawn = shutil.copy(followed.folder / "verified.png", tmp_path)
    real, shown = (matplotlib.image.imread(path) for path in (drawn, _PICTURE))
    assert real.shape == shown.shape
    assert float(np.abs(real - shown).mean()) < 0.005, f"the real one is {drawn}"
    assert _PICTURE.stat().st_size < 150_000


@pytest.fixture
def reading(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process reads what the tutorial left."""
    for name in [name for name in os.environ if name.startswith("OHLCV_")]:
        monkeypatch.delenv(name)
    for name, value in followed.variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("reading")
def test_every_example_of_the_client_runs_and_gives_the_columns_of_the_page() -> None:
    """Each example of the client's page runs, and a frame that it returns has the columns and dtypes that the page lists."""
    names: dict[str, Any] = {}
    given: dict[str, list[tuple[str, str]]] = {}
    for block in _examples(CLIENT_PAGE):
        exec(block, names)  # noqa: S102  it is our own page
        frames = [part for part in _assigned(block, names) if isinstance(part, pl.DataFrame)]
        if frames and (called := re.search(r"client\.(\w+)\(", block.splitlines()[-1])):
            given[called[1]] = schema_of(frames[-1])
    query = names["query"].collect()
    listed = {name: [(column, dtype) for column, dtype, _ in columns] for name, columns in COLUMNS.items()}
    assert {**given, "scan": schema_of(query)} == listed


@pytest.mark.usefixtures("reading")
def test_every_example_of_reading_bars_does_what_its_sentence_says() -> None:
    """The examples of the page run one after the other, and give what is said of them."""
    names: dict[str, Any] = {}
    for block in _examples(DOCS / "how-to" / "read-bars.md"):
        exec(block, names)  # noqa: S102  it is our own page
    assert names["one"].height == 1_440
    assert names["some"].columns == ["interval_end", "symbol", "close", "volume"]
    assert names["closes"].shape == (1_440, 25)
    assert names["safe"].equals(names["one"])
    assert names["doubtful"].is_empty()
    assert names["hours"]["bars"].to_list() == [60] * 24
    assert names["made_up"].is_empty()
    assert set(names["both"]["source"]) == {"daily", "streamed"}
    assert names["newest"].height == 24
    assert (names["then"]["close"] != names["now"]["close"]).sum() == 1
    assert names["turnover"].height == 24
    assert str(names["frame"].index.tz) == "UTC"


@pytest.fixture
def elsewhere(followed: Followed, s3_server: S3Server) -> Iterator[None]:
    """A second PostgreSQL server and a bucket, named to the tutorial's shell as the page of moving asks for."""
    with open_temporary_folder() as home:
        server = LocalPostgres(home).up()
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            # What the master user of RDS may: it is no superuser.
            connection.execute("create role master login createrole createdb password 'of-rds'")
        try:
            named = {
                **s3_server.environment,
                "ADMIN_URL": f"postgresql://master:of-rds@127.0.0.1:{server.port}/postgres",
                "NEW_URL": f"postgresql://capture:change-me@127.0.0.1:{server.port}/bars",
                "NEW_LAKE": f"{s3_server.new_url()}/stockholm",
            }
            for name, value in named.items():
                followed.shell.run(Step(f"export {name}={shlex.quote(value)}", ()))
            yield
        finally:
            followed.shell.run(Step("unset OHLCV_DATABASE_URL OHLCV_LAKE", ()))
            LocalPostgres(home).down()


@pytest.mark.usefixtures("elsewhere")
def test_a_deployment_is_moved_as_its_page_says(followed: Followed) -> None:
    """By the page's commands bars, revisions and files come to another server and a bucket, and read the same, as of any moment."""
    answers = follow(_MOVE, followed.shell, followed.folder, {})
    wrong = [found for answer in answers if (found := mismatch(answer, followed.variables)) or answer.code]
    assert not wrong, "\n\n".join(map(str, wrong))
    done = followed.shell.run(Step(f"{shlex.quote(sys.executable)} -c {shlex.quote(_AS_A_READER)}", ()))
    assert done.output.split() == ["101000.0", "102326.67", "refused"], done.output


#: As the login of a reader: the bar before and after its repair, which was before the move; then a write.
_AS_A_READER = """
import os, psycopg
from datetime import timedelta
from ohlcv_assets import OhlcvClient
from ohlcv_assets.settings import Settings
url = os.environ["NEW_URL"].replace("capture:change-me", "model:change-me-too")
client = OhlcvClient(Settings(database_url=url))
minute = {"start": "2025-06-01T12:34Z", "end": "2025-06-01T12:35Z", "market": "spot"}
moment = client.repairs(**minute)["knowledge_timestamp"][0] - timedelta(microseconds=1)
print(client.read("BTC/USDT", **minute, source="streamed", as_of=moment)["close"][0])
print(client.read("BTC/USDT", **minute, source="streamed")["close"][0])
try:
    psycopg.connect(url).execute("delete from bars")
except psycopg.errors.InsufficientPrivilege:
    print("refused")
"""


def test_the_policy_of_the_bucket_can_be_read_and_allows_no_deletion() -> None:
    """The page's policy is JSON, and no statement of it allows to delete."""
    [policy] = [json.loads(block.text) for block in blocks(_MOVE) if block.kind == "json"]
    allowed = [action for each in policy["Statement"] if each["Effect"] == "Allow" for action in [each["Action"]]]
    assert sorted({name for action in allowed for name in ([action] if isinstance(action, str) else action)}) == [
        "s3:GetObject",
        "s3:ListBucket",
        "s3:PutObject",
    ]


def _examples(page: Path) -> list[str]:
    return [block.text for block in blocks(page) if block.kind == "python"]


def _assigned(block: str, names: dict[str, Any]) -> list[Any]:
    """What the block's assignments gave, in order."""
    found = [node.targets[0] for node in ast.parse(block).body if isinstance(node, ast.Assign)]
    return [names[target.id] for target in found if isinstance(target, ast.Name)]


def test_everything_is_put_away_in_the_end(followed: Followed) -> None:
    """The last commands stop both servers that the tutorial started."""
    last = [step for block in blocks(_TUTORIAL) if block.kind == "console" for step in steps(block)]
    ending = last[[step.command for step in last].index(_LAST) :]
    answers = [followed.shell.run(step) for step in ending]
    assert [mismatch(answer, followed.variables) for answer in answers] == [None] * len(ending)
    assert [answer.code for answer in answers] == [0] * len(ending)
    assert not LocalPostgres(followed.folder / "data").status().running
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(followed.variables["OHLCV_EXCHANGE_URL"].rpartition(":")[2])))


@pytest.mark.parametrize(
    ("said", "noticed"),
    [
        ("all 34,560 bars are equal\ntook 2.5 s\nreport: /tmp/x/report.html\n", False),
        ("all 34,560 bars are equal\ntook 31.0 s\nreport: /elsewhere\n", False),
        ("all 34,559 bars are equal\ntook 2.5 s\nreport: /tmp/x/report.html\n", True),
        ("all 34,560 bars are equal\nreport: /tmp/x/report.html\n", True),
        ("a warning\nall 34,560 bars are equal\ntook 2.5 s\nreport: /tmp/x/report.html\n", True),
        ("", True),
    ],
)
def test_an_answer_that_is_not_the_shown_one_is_noticed(said: str, noticed: bool) -> None:
    """Other numbers, a line too few or too many are noticed; seconds and paths that differ by nature are not."""
    step = Step("ohlcv qa", ("all 34,560 bars are equal", "took 0.1 s", "report: ..."))
    assert (mismatch(Answer(step, said, 0), {}) is not None) is noticed


def test_the_set_up_of_the_tutorial_is_a_target_of_make() -> None:
    """What the tutorial tells to make is a file that the Makefile knows how to make."""
    told = [
        line.split()[1]
        for block in blocks(_TUTORIAL)
        if block.kind == "sh"
        for line in block.text.splitlines()
        if line.startswith("make ")
    ]
    assert told == [".venv/ready"]
    done = subprocess.run(["make", "--dry-run", *told], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
