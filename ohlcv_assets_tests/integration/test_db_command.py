"""`ohlcv db` as a person or a program asks it."""

import json
from pathlib import Path
from typing import Any

import pytest

from ohlcv_assets.storage.migrate import migrations
from ohlcv_assets_tests.fixtures.program import Program


def test_the_status_of_a_given_server_is_told_to_machines(
    program: Program, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    """The version of the server that OHLCV_DATABASE_URL names, and that the local one, never started, does not run."""
    monkeypatch.setenv("OHLCV_DATABASE_URL", database_url)
    ended = program.run("db", "status", "--json")
    told = json.loads(ended.out)
    assert ended.code == 0
    assert told["given"]["version"].split(".")[0].isdigit()
    assert (told["local"]["running"], told["local"]["port"]) == (False, None)
    assert told["local"]["data_directory"].startswith(str(program.settings.home))


def test_a_server_that_does_not_run_is_exit_code_3(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any server that answers the exit code is 3, in both forms."""
    monkeypatch.delenv("OHLCV_DATABASE_URL")
    ended = program.run("db", "status", "--json")
    assert (ended.code, json.loads(ended.out)["given"]) == (3, None)
    plain = program.run("db", "status")
    assert plain.code == 3
    assert "does not run" in plain.out


def test_a_machine_is_told_what_starting_migrating_and_stopping_did(
    program: Program, monkeypatch: pytest.MonkeyPatch, open_folder: Path
) -> None:
    """Where the started server is, as `status` says it; which migrations were applied; whether there was one to stop."""
    monkeypatch.delenv("OHLCV_DATABASE_URL")
    monkeypatch.setenv("OHLCV_HOME", str(open_folder))

    def told(command: str) -> Any:
        ended = program.run("db", command, "--json")
        assert (ended.code, ended.err) == (0, "")
        return json.loads(ended.out)

    started = told("start")
    assert started["local"]["running"] is True
    assert started["local"] == told("status")["local"]
    assert told("migrate") == {"applied": [migration.name for migration in migrations()]}
    assert told("migrate") == {"applied": []}
    assert told("stop") == {"was_running": True}
    assert told("stop") == {"was_running": False}
