"""Dagster's instance files: each is loaded by Dagster itself, with the variables that it asks for."""

from pathlib import Path

import pytest
import yaml
from dagster import DagsterInstance
from dagster._core.instance.ref import InstanceRef

import ohlcv_assets

_CHECKOUT = Path(ohlcv_assets.__file__).resolve().parents[1]
_FILES = {
    "local": _CHECKOUT / "dagster.yaml",
    "platform": _CHECKOUT / "ohlcv_assets" / "platform" / "dagster.yaml",
    "aws": _CHECKOUT / "deploy" / "aws" / "dagster.yaml",
}


def _load(file: Path, folder: Path) -> InstanceRef:
    (folder / "dagster.yaml").write_text(file.read_text())
    return InstanceRef.from_dir(str(folder))


@pytest.mark.parametrize("name", _FILES)
def test_nothing_phones_home_and_nothing_pops_up(name: str) -> None:
    """Telemetry and the newcomers' pop-up are off in every instance file."""
    content = yaml.safe_load(_FILES[name].read_text())
    assert content["telemetry"] == {"enabled": False}
    assert content["nux"] == {"enabled": False}


def test_the_local_file_needs_no_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare `dagster dev` in the checkout keeps its runs in SQLite."""
    monkeypatch.chdir(tmp_path)
    with DagsterInstance.from_ref(_load(_FILES["local"], tmp_path)) as instance:
        assert "sqlite" in type(instance.run_storage).__module__.lower()


def test_the_platform_keeps_its_runs_in_postgres(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ohlcv up` and `ohlcv demo` store runs, events and schedules in a real PostgreSQL."""
    url = database_url.replace("postgresql://", "postgresql+psycopg2://")
    monkeypatch.setenv("OHLCV_DAGSTER_DATABASE_URL", url)
    monkeypatch.setenv("OHLCV_DAGSTER_LOGS", str(tmp_path / "logs"))
    with DagsterInstance.from_ref(_load(_FILES["platform"], tmp_path)) as instance:
        assert instance.get_runs() == []
        assert "postgres" in type(instance.run_storage).__module__


def test_the_aws_file_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every class that the production file names exists and takes its configuration."""
    for name in ("HOST", "USER", "PASSWORD", "DB"):
        monkeypatch.setenv(f"DAGSTER_POSTGRES_{name}", "example")
    monkeypatch.setenv("DAGSTER_LOGS_BUCKET", "logs")
    monkeypatch.setenv("OHLCV_REGION", "tokyo")
    ref = _load(_FILES["aws"], tmp_path)
    named = [ref.storage_data, ref.compute_logs_data, ref.run_launcher_data]
    classes = [data.class_name for data in named if data]
    assert classes == ["DagsterPostgresStorage", "S3ComputeLogManager", "EcsRunLauncher"]
    assert ref.compute_log_manager is not None
