"""What a demo leaves for later, beside its data: with which settings it ran, and where its exchange is had again.

Lives here: the files `settings.json`, `env.sh` and `exchange.json` of a demo's folder. Does not: the demo (demo.py), or starting
anything (up.py). `env.sh` is for people: a shell that has sourced it sees the demo's stores with every command of `ohlcv` and with
`OhlcvClient()`, as long as `ohlcv ui` serves them.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ohlcv_assets.errors import Refused
from ohlcv_assets.settings import Settings

_SETTINGS, _SHELL, _EXCHANGE = "settings.json", "env.sh", "exchange.json"


def remember(home: Path, settings: Settings, exchange_command: Sequence[str]) -> None:
    """Write the files.

    Args:
        home: the demo's folder, which is there.
        settings: what the demo runs with.
        exchange_command: what starts its exchange once more, at a time when the demo's day is over; the interpreter first.
    """
    (home / _SETTINGS).write_text(settings.model_dump_json(indent=2))
    (home / _EXCHANGE).write_text(json.dumps(exchange_command[1:]))
    ours = settings.environment()
    names = [f"OHLCV_{name.upper()}" for name in type(settings).model_fields]
    lines = [f"export {name}={shlex.quote(ours[name])}" if name in ours else f"unset {name}" for name in names]
    (home / _SHELL).write_text("# The demo's deployment: `. FILE` in a shell of its own.\n" + "\n".join(lines) + "\n")


def reopened_settings(home: Path) -> Settings:
    """The settings that the demo under `home` ran with, so that its UI shows the same assets.

    Raises:
        Refused: no demo ran there.
    """
    return Settings.model_validate_json(_read(home, _SETTINGS))


def reopened_exchange(home: Path) -> list[str]:
    """The command that starts the exchange of the demo under `home` once more, where its settings say that it is.

    Raises:
        Refused: no demo ran there.
    """
    return [sys.executable, *json.loads(_read(home, _EXCHANGE))]


def _read(home: Path, name: str) -> str:
    remembered = home / name
    if not remembered.is_file():
        raise Refused(f"no demo ran under {home} yet", hint="make demo")
    return remembered.read_text()
