"""Promises of settings.py: every setting explains itself, a bad value is one clear error, a secret stays secret."""

import os
import traceback
from pathlib import Path

import pytest
from pydantic import SecretStr

from ohlcv_assets.errors import BadSetting
from ohlcv_assets.settings import Settings, read_settings, settings

_SECRET = "s3cr3t-pa55word"  # noqa: S105


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    """No variable of ours in the environment, and no settings remembered from another test."""
    for name in [name for name in os.environ if name.upper().startswith("OHLCV_")]:
        monkeypatch.delenv(name)
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_every_setting_describes_itself():
    """Each setting has a sentence, and a setting of seconds or of a share says so by its name."""
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        if field.annotation is float:
            assert name.endswith(("_s", "_share")), name


def test_nothing_needs_to_be_set():
    """With no variable set, everything has a usable default under one home."""
    defaults = read_settings()
    assert defaults.region == "stockholm"
    assert defaults.home.is_absolute()
    assert defaults.lake_url == f"{defaults.home}/lake/stockholm"
    assert (defaults.universes / "released.json").is_file()
    assert defaults.exchange_url is None
    assert defaults.database_url is None


def test_every_setting_can_be_set(monkeypatch, tmp_path):
    """Each variable is read under its name with OHLCV_ in front."""
    values = {
        "region": "tokyo",
        "home": tmp_path / "home",
        "database_url": "postgresql://writer:x@db.example/bars",
        "lake": "s3://bucket/prefix",
        "universe": "v8.0",
        "universes": tmp_path / "universes",
        "exchange_url": "http://127.0.0.1:8080",
        "download_delay_s": 4.25,
        "command_patience_s": 2.5,
        "stream_lead_s": 60.0,
        "latency_limit_s": 4.0,
        "stream_overlap_s": 0.0,
        "stream_shards": 4,
        "streamed_since": "2024-02-29",
        "autostart": True,
        "daily_since": "2025-06-01",
        "partitions_until": "2025-06-03",
        "sensor_interval_s": 5,
        "weight_share": 0.5,
        "repair_limit_bars": 20,
        "spool_limit_mib": 64,
        "metrics_port": 9464,
        "ui_url": "https://dagster.example/ohlcv",
        "alert_webhook_url": "https://hooks.example/services/T0/B0/x",
        "alert_email_from": "ohlcv@example.com",
        "alert_email_to": "a@example.com, b@example.com",
        "alert_email_password": "pw",
        "alert_smtp_host": "smtp.example.com:587",
    }
    assert set(values) == set(Settings.model_fields)
    for name, value in values.items():
        monkeypatch.setenv(f"OHLCV_{name.upper()}", str(value))
    read = read_settings()
    for name, value in values.items():
        found = getattr(read, name)
        assert (found.get_secret_value() if isinstance(found, SecretStr) else found) == value, name


_NO_LAKES = (
    " ", "s3://", "s3:///prefix", "s3:/bucket/x", "s3:bucket", "S3://bucket", "s3:// /x", " s3://bucket", "gs://bucket",
    "gs:/bucket", "http://host/bucket", "file://", "file://host/lake",
)  # fmt: skip
BAD = [
    ("OHLCV_REGION", "oslo"),
    ("OHLCV_REGION", "Tokyo"),
    ("OHLCV_DATABASE_URL", f"mysql://root:{_SECRET}@host/bars"),
    ("OHLCV_DATABASE_URL", f"host=db password={_SECRET}"),
    ("OHLCV_HOME", "~nobody-of-that-name/ohlcv"),
    *(("OHLCV_LAKE", lake) for lake in _NO_LAKES),
    ("OHLCV_EXCHANGE_URL", "127.0.0.1:8080"),
    ("OHLCV_EXCHANGE_URL", "http://"),
    ("OHLCV_EXCHANGE_URL", "http://host/api/v3"),
    ("OHLCV_DOWNLOAD_DELAY_S", "0"),
    ("OHLCV_DOWNLOAD_DELAY_S", "-1"),
    ("OHLCV_DOWNLOAD_DELAY_S", "soon"),
    ("OHLCV_DOWNLOAD_DELAY_S", "inf"),
    ("OHLCV_DOWNLOAD_DELAY_S", "nan"),
    ("OHLCV_STREAM_LEAD_S", "-0.1"),
    ("OHLCV_STREAM_LEAD_S", "inf"),
    ("OHLCV_STREAM_OVERLAP_S", "two minutes"),
    ("OHLCV_STREAM_OVERLAP_S", "nan"),
    ("OHLCV_STREAMED_SINCE", "yesterday"),
    ("OHLCV_STREAMED_SINCE", "2025-02-29"),
    ("OHLCV_STREAMED_SINCE", "2025-06-01T00:00Z"),
    ("OHLCV_STREAMED_SINCE", "20250601"),
    ("OHLCV_STREAMED_SINCE", "2025-W23-1"),
    ("OHLCV_DAILY_SINCE", "1st of June"),
    ("OHLCV_PARTITIONS_UNTIL", "2025-06-31"),
    ("OHLCV_AUTOSTART", "maybe"),
    ("OHLCV_SENSOR_INTERVAL_S", "0"),
    ("OHLCV_SENSOR_INTERVAL_S", "1.5"),
    ("OHLCV_WEIGHT_SHARE", "0"),
    ("OHLCV_WEIGHT_SHARE", "1.01"),
    ("OHLCV_WEIGHT_SHARE", "nan"),
    ("OHLCV_REPAIR_LIMIT_BARS", "0"),
    ("OHLCV_UI_URL", "127.0.0.1:3000"),
    ("OHLCV_COMMAND_PATIENCE_S", "-1"),
    ("OHLCV_COMMAND_PATIENCE_S", "inf"),
    ("OHLCV_ALERT_WEBHOOK_URL", f"ftp://hooks.example/{_SECRET}"),
    ("OHLCV_ALERT_EMAIL_FROM", "somebody"),
    ("OHLCV_ALERT_EMAIL_TO", "a@example.com b@example.com"),
    ("OHLCV_ALERT_SMTP_HOST", "smtp://mail.example"),
]


@pytest.mark.parametrize(("variable", "value"), BAD)
def test_a_bad_value_is_one_error_that_names_the_variable(monkeypatch, variable, value):
    """A value that cannot be used is refused at once, by the variable's own name, with a hint."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadSetting) as refused:
        settings()
    assert refused.value.message.startswith(f"{variable}: ")
    assert refused.value.exit_code == 2
    assert "settings.md" in (refused.value.hint or "")


def test_all_bad_values_are_named_in_one_error(monkeypatch):
    """Two bad variables do not take two tries to find."""
    monkeypatch.setenv("OHLCV_REGION", "oslo")
    monkeypatch.setenv("OHLCV_WEIGHT_SHARE", "2")
    with pytest.raises(BadSetting, match=r"OHLCV_REGION: .*; OHLCV_WEIGHT_SHARE: "):
        settings()


@pytest.mark.parametrize("url", [f"mysql://root:{_SECRET}@host/bars", f"postgresql://writer:{_SECRET}@host/bars"])
def test_a_secret_is_never_shown(monkeypatch, url):
    """The password of the database stands in no repr, no text, no dump and no traceback, usable or not."""
    monkeypatch.setenv("OHLCV_DATABASE_URL", url)
    try:
        read = read_settings()
    except BadSetting as error:
        shown = "".join(traceback.format_exception(error))
    else:
        shown = f"{read!r} {read} {read.model_dump()} {read.model_dump_json()}"
        assert read.database_url is not None
        assert read.database_url.get_secret_value() == url
    assert _SECRET not in shown


@pytest.mark.parametrize("url", [f"ftp://hooks.example/{_SECRET}", f"https://hooks.example/services/{_SECRET}"])
def test_a_webhook_is_a_secret(monkeypatch, url):
    """Whoever knows the address may post there: it is shown no more than a password, usable or not."""
    monkeypatch.setenv("OHLCV_ALERT_WEBHOOK_URL", url)
    try:
        read = read_settings()
    except BadSetting as error:
        shown = "".join(traceback.format_exception(error))
    else:
        shown = f"{read!r} {read} {read.model_dump()} {read.model_dump_json()}"
        assert read.environment()["OHLCV_ALERT_WEBHOOK_URL"] == url
    assert _SECRET not in shown


def test_a_variable_set_to_nothing_is_not_set(monkeypatch):
    """An empty variable, as a compose file or a shell leaves it, means the default."""
    for name in Settings.model_fields:
        monkeypatch.setenv(f"OHLCV_{name.upper()}", "")
    empty = read_settings()
    for name in Settings.model_fields:
        monkeypatch.delenv(f"OHLCV_{name.upper()}")
    assert empty == read_settings()


def test_folders_do_not_depend_on_where_a_process_runs(monkeypatch, tmp_path):
    """A relative folder is fixed when it is read, and ~ is the user's home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OHLCV_HOME", "~/kept")
    monkeypatch.setenv("OHLCV_LAKE", "lake")
    monkeypatch.setenv("OHLCV_UNIVERSES", "sets")
    read = read_settings()
    assert read.home == tmp_path / "kept"
    assert read.lake_url == f"{Path.cwd()}/lake/stockholm"
    assert read.universes == Path.cwd() / "sets"


@pytest.mark.parametrize("lake", ["s3://bucket/prefix", "s3://bucket/prefix/", "s3://bucket"])
def test_each_region_has_its_own_part_of_the_lake(monkeypatch, lake):
    """The region is the last part of the lake's address, with one slash before it, and part of the location's name."""
    monkeypatch.setenv("OHLCV_LAKE", lake)
    monkeypatch.setenv("OHLCV_REGION", "tokyo")
    assert read_settings().lake_url == f"{lake.rstrip('/')}/tokyo"
    assert read_settings().location_name == "ohlcv_tokyo"


def test_settings_are_read_once_and_do_not_change(monkeypatch):
    """A process keeps the settings that it began with, and nobody can assign to them."""
    first = settings()
    monkeypatch.setenv("OHLCV_REGION", "tokyo")
    assert settings() is first
    with pytest.raises(ValueError, match="frozen"):
        first.region = "tokyo"
