"""Every environment variable of the package: its name, default and unit. Nothing else reads the environment.

Lives here: `Settings`, read from variables that begin with `OHLCV_`. Does not: what the values lead to; a
setting is handed to the code that needs it as an argument.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ohlcv_assets.errors import BadSetting, UsageError
from ohlcv_assets.timestamps import parse_day

_PACKAGE = Path(__file__).resolve().parent

#: What begins as an address does: `s3://bucket`, and what was meant so (`s3:/bucket`, `S3:bucket`, `gs://bucket`).
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/|s3:", re.IGNORECASE)
#: The addresses that a lake can have.
_LAKE_URL = re.compile(r"s3://[^/\s]+(/.*)?|file:///.+")


def _checkout() -> Path | None:
    """The folder of the checkout that this package runs from; None when it is installed as a wheel."""
    return _PACKAGE.parent if (_PACKAGE.parent / "pyproject.toml").is_file() else None


def _default_home() -> Path:
    checkout = _checkout()
    return checkout / ".ohlcv" if checkout else Path.home() / ".ohlcv"


def _default_universes() -> Path:
    checkout = _checkout()
    return checkout / "universes" if checkout else _PACKAGE / "universes"


def _absolute(folder: Path) -> Path:
    try:
        return folder.expanduser().absolute()
    except RuntimeError as error:  # ~somebody, who is nobody here
        raise ValueError(str(error)) from error


def lake_place(text: str) -> str:
    """Where a lake is, as it is typed: a folder, made absolute, or s3://bucket/prefix as it is.

    Whatever looks like an address and is none is refused: taken for a folder's name it would be a lake below wherever the process
    runs, and nobody would miss the bars before they look into the bucket.

    Raises:
        ValueError: says what to write.
    """
    if not text.strip() or text != text.strip():
        raise ValueError(f"{text!r} is no place: write a folder, or s3://bucket/prefix")
    if not _ADDRESS.match(text):
        return str(_absolute(Path(text)))
    if not _LAKE_URL.fullmatch(text):
        raise ValueError(f"{text!r} is no lake: write s3://bucket/prefix, with the bucket's name, or a folder")
    return text


def _day(text: str) -> str:
    try:
        return parse_day(text).isoformat()
    except UsageError as error:
        raise ValueError(f"{error.message}; write it as 2025-06-01") from error


def _postgres_url(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(("postgresql://", "postgres://")):
        raise ValueError("must begin with postgresql://")
    return url


def _http_url(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(("https://", "http://")):
        raise ValueError("must begin with https://")
    return url


# The daemon, the webserver and the runs have different working directories: a relative folder would be several.
_Folder = Annotated[Path, AfterValidator(_absolute)]
_Place = Annotated[str, AfterValidator(lake_place)]
_Day = Annotated[str, AfterValidator(_day)]
_PostgresUrl = Annotated[SecretStr, AfterValidator(_postgres_url)]
_HttpUrl = Annotated[SecretStr, AfterValidator(_http_url)]


class Settings(BaseSettings):
    """What a deployment may decide; the descriptions are the reference page's text.

    A variable that is set to nothing counts as not set. No error shows a secret.
    """

    model_config = SettingsConfigDict(
        env_prefix="OHLCV_", frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True
    )

    region: Literal["stockholm", "tokyo"] = Field(
        "stockholm",
        description="The deployment: decides the database, the lake's prefix and the code location's name.",
    )
    home: _Folder = Field(default_factory=_default_home, description="Folder of everything that is kept locally.")
    database_url: _PostgresUrl | None = Field(
        None,
        description="postgresql://user:password@host/database of the bars; unset: an embedded server under OHLCV_HOME.",
    )
    lake: _Place | None = Field(
        None,
        description="Where the daily Parquet files are: a folder, or s3://bucket/prefix; unset: OHLCV_HOME/lake.",
    )
    universe: str = Field("v7.3", description="Version of the universe that is captured.")
    universes: _Folder = Field(default_factory=_default_universes, description="Folder of the universe files.")
    exchange_url: str | None = Field(
        None,
        pattern=r"^https?://[^/\s]+/?$",
        description="http://host:port of a replay exchange; unset: Binance itself. The only difference between the two.",
    )
    download_delay_s: float = Field(
        3.5,
        gt=0,
        allow_inf_nan=False,
        description="d: a bar that is not there d exchange seconds after its end is fetched by REST.",
    )
    latency_limit_s: float = Field(
        5.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds from a bar's end to PostgreSQL within which 99 % of the streamed bars must be stored, or the QA warns.",
    )
    stream_lead_s: float = Field(
        120.0,
        ge=0,
        allow_inf_nan=False,
        description="How many exchange seconds before its hour a streaming run is started.",
    )
    stream_overlap_s: float = Field(
        120.0,
        ge=0,
        allow_inf_nan=False,
        description="How many exchange seconds after its hour a streaming run stays, overlapping with the next.",
    )
    stream_shards: int = Field(
        1, ge=1, le=64, description="Over how many streaming runs a market's symbols are split, each a part of them."
    )
    streamed_since: _Day = Field("2025-01-01", description="First UTC day of the hourly partitions of streamed_bars.")
    daily_since: _Day | None = Field(
        None, description="First UTC day of the daily partitions; unset: the market's first day on Binance."
    )
    partitions_until: _Day | None = Field(
        None,
        description="UTC day before which all partitions end, for a replayed past; unset: they grow with the clock.",
    )
    autostart: bool = Field(
        default=False,
        description="Whether sensors and schedules are on as soon as the code location is loaded.",
    )
    sensor_interval_s: int = Field(30, ge=1, description="Seconds between two ticks of the sensors.")
    weight_share: float = Field(
        0.98,
        gt=0,
        le=1,
        description="Share of the exchange's request weight a minute that this host may use.",
    )
    repair_limit_bars: int = Field(
        500,
        ge=1,
        description="Most bars of a day or hour that are repaired unattended; beyond it a person has to confirm.",
    )
    spool_limit_mib: int = Field(
        512,
        ge=1,
        description="Most that bars waiting for PostgreSQL may take on disk, for each market (a bar alone takes 3 KiB).",
    )
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of 127.0.0.1 where a streaming process tells its numbers to Prometheus; unset: none, 0: a free one.",
    )
    command_patience_s: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="Seconds for which a command waits for a PostgreSQL or lake that has not answered it yet; unset: 3 where standard "
        "error is a terminal, else a minute, as streams and runs always do.",
    )
    ui_url: str = Field(
        "http://127.0.0.1:3000",
        pattern=r"^https?://[^\s]+$",
        description="Where people open the UI; alerts link to its pages.",
    )
    alert_webhook_url: _HttpUrl | None = Field(
        None,
        description="Where failed checks and runs are told, as JSON that Slack understands; unset: nowhere.",
    )
    alert_email_from: str | None = Field(
        None,
        pattern=r"^[^@\s]+@[^@\s]+$",
        description="Sender, and user of the mail server, of a mail for each failed run; unset: no mail.",
    )
    alert_email_to: str | None = Field(
        None,
        pattern=r"^[^@\s,]+@[^@\s,]+(,\s*[^@\s,]+@[^@\s,]+)*$",
        description="Who gets these mails, separated by commas.",
    )
    alert_email_password: SecretStr | None = Field(None, description="Password of the sender at the mail server.")
    alert_smtp_host: str | None = Field(
        None,
        pattern=r"^[^\s:/]+(:[0-9]{1,5})?$",
        description="Mail server, host or host:port: TLS from the start at port 465 (the default), STARTTLS at others.",
    )

    @property
    def lake_url(self) -> str:
        """Where the lake's objects of this region are: a folder or s3://bucket/prefix, the region last."""
        return f"{(self.lake or str(self.home / 'lake')).rstrip('/')}/{self.region}"

    def environment(self) -> dict[str, str]:
        """These settings as the variables that another process reads them from; unset ones are absent."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        shown = {
            name: v.get_secret_value() if isinstance(v, SecretStr) else str(v)
            for name, v in values.items()
            if v is not None
        }
        return {f"OHLCV_{name.upper()}": text for name, text in shown.items()}

    @property
    def location_name(self) -> str:
        """The name of Dagster's code location."""
        return f"ohlcv_{self.region}"


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process.

    Raises:
        BadSetting: names each variable that cannot be used, and why.
    """
    return read_settings()


def read_settings() -> Settings:
    """The settings as the environment says now (see `settings`)."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = "; ".join(f"OHLCV_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
        raise BadSetting(
            wrong, hint="see docs/reference/settings.md for every setting, its default and its unit"
        ) from error
