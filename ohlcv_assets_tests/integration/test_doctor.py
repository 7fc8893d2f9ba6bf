"""`ohlcv doctor`: says of each thing that a deployment needs how it is, changes nothing, and ends with the code that fits."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ohlcv_assets.bars import Channel
from ohlcv_assets.cli import main
from ohlcv_assets.instruments import Market, Universe, release_universe
from ohlcv_assets.settings import settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.timestamps import MINUTE_MS, floor_to, iso
from ohlcv_assets_tests.builders import bars

SYMBOLS = {Market.SPOT: ["BTC/USDT", "ETH/USDT"], Market.FUTURES: ["BTC/USDT:USDT", "ETH/USDT:USDT"]}

Doctor = Callable[[], tuple[int, dict[str, dict]]]


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Runs the command in a home of its own; gives the exit code and the findings by name."""
    release_universe(Universe.of("v0.1", SYMBOLS), tmp_path / "universes")
    variables = {"HOME": tmp_path / "home", "UNIVERSES": tmp_path / "universes", "UNIVERSE": "v0.1"}
    for name, value in variables.items():
        monkeypatch.setenv(f"OHLCV_{name}", str(value))

    def run() -> tuple[int, dict[str, dict]]:
        monkeypatch.setattr(sys, "argv", ["ohlcv", "doctor", "--json"])
        settings.cache_clear()
        with pytest.raises(SystemExit) as ended:
            main()
        settings.cache_clear()
        findings = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return int(ended.value.code or 0), {finding["name"]: finding for finding in findings}

    return run


def test_what_does_not_run_is_named_and_not_started(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a server and an exchange: both are away, each with what to do, the rest is told, and no folder is made."""
    monkeypatch.setenv("OHLCV_EXCHANGE_URL", "http://127.0.0.1:9")
    code, found = doctor()
    assert code == 3
    assert {name for name, finding in found.items() if finding["health"] == "away"} == {
        "exchange spot", "exchange futures", "database", "last bars spot", "last bars futures"
    }  # fmt: skip
    assert found["database"]["advice"] == "ohlcv db start"
    assert found["universe"]["numbers"] == {"spot": 2, "futures": 2}
    assert not (tmp_path / "home").exists()


def test_a_deployment_that_streams_is_well_until_a_symbol_falls_behind(
    doctor: Doctor, replay_exchange, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bars of every symbol: well; one symbol without its latest bars: bad, and named."""
    monkeypatch.setenv("OHLCV_EXCHANGE_URL", replay_exchange.url)
    monkeypatch.setenv("OHLCV_DATABASE_URL", database_url)
    with Database(database_url) as database:
        database.migrate()
        clock_ms = _exchange_ms(replay_exchange)
        start = iso(floor_to(clock_ms, MINUTE_MS) - 2 * MINUTE_MS)
        for market in Market:
            names = SYMBOLS[market] if market is Market.SPOT else SYMBOLS[market][:1]
            # Enough minutes ahead of the exchange's clock, which runs fast here.
            database.record(bars(names, start=start, minutes=60), channel=Channel.REST, run_id="test")
    code, found = doctor()
    assert found["database"]["health"] == "ok"
    assert found["last bars spot"]["health"] == "ok"
    assert found["last bars futures"]["health"] == "bad"
    assert found["last bars futures"]["numbers"]["late"] == ["ETH/USDT:USDT"]
    assert code == 1


def test_a_changed_universe_is_bad(doctor: Doctor, tmp_path: Path) -> None:
    """A released universe whose file was edited is found, and what needs it says so as well."""
    file = tmp_path / "universes" / "v0.1.json"
    file.write_text(file.read_text().replace("ETH/USDT", "XRP/USDT"))
    _, found = doctor()
    assert found["universe"]["health"] == "bad"


def _exchange_ms(replay_exchange) -> int:
    from ohlcv_assets.exchange.server_time import measure_clock

    return measure_clock(Market.SPOT, replay_exchange.url).now_ms()
