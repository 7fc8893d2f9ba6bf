"""The request weight that this host may spend on the exchange, shared by all processes of this user.

Lives here: the count of weight per UTC clock minute of the exchange (Binance resets its own at the full minute;
it is no sliding window), in a small locked file per exchange host and market, and the stop that a 429 or 418
orders, in the same file. Does not: what a request weighs (binance.py).

The exchange's own count, which it sends with every answer, corrects ours upward: others may share the address.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from ohlcv_assets.clock import ExchangeClock
from ohlcv_assets.errors import BadSetting, Refused
from ohlcv_assets.instruments import Market
from ohlcv_assets.logs import get_logger
from ohlcv_assets.timestamps import MINUTE_MS, floor_to

#: Weight a minute and address that Binance allows.
WEIGHT_PER_MINUTE = {Market.SPOT: 6000, Market.FUTURES: 2400}

#: A request may be counted by the exchange this much of our own time after we count it.
_TRANSIT_S = 0.25
_WIDEST_GUARD_MS = 15_000
_LOCK_TIMEOUT_S = 10.0
_FILE_BYTES = 512

_log = get_logger()


@dataclass
class _State:
    """What the file holds: weight per minute (UNIX ms of its start), and times of the machine's wall clock."""

    minutes: dict[int, int] = field(default_factory=dict)
    written_s: float = 0.0
    blocked_until_s: float = 0.0


class WeightBudget:
    """A share of the exchange's weight limit, for every process of this user on this host together.

    Args:
        folder: where the budget files are; the same for all processes that share an address.
        pool: what is counted together, such as `api.binance.com spot`.
        limit: weight a minute.
        clock: the exchange's.
    """

    def __init__(self, folder: Path, pool: str, limit: int, clock: ExchangeClock) -> None:
        name = f"{re.sub('[^A-Za-z0-9.]+', '_', pool)}-{hashlib.sha256(pool.encode()).hexdigest()[:8]}"
        self.path = folder / f"{name}.json"
        self.limit = limit
        self.spent = 0
        # What this process saw last: an answer's count that is no higher needs no look into the file.
        self._known_used: dict[int, int] = {}
        self._clock = clock
        self._lock = FileLock(folder / f"{name}.lock")
        transit_ms = min(_TRANSIT_S * 1000 * clock.speed, _WIDEST_GUARD_MS)
        self._guard_ms = math.ceil(max(transit_ms, min(clock.uncertainty_s * 1000, _WIDEST_GUARD_MS)))

    async def spend(self, weight: int) -> None:
        """Return as soon as `weight` may be spent; it is counted then.

        Raises:
            BadSetting: the limit is less than this one request.
        """
        if weight > self.limit:
            raise BadSetting(
                f"a request weighs {weight}, the budget is {self.limit} a minute", hint="raise OHLCV_WEIGHT_SHARE"
            )
        while (wait_s := self._take(weight)) > 0:
            await self._clock.sleep(wait_s)
        self.spent += weight

    def observe(self, used: int) -> None:
        """Correct the count of the current minute upward to what the exchange says was used."""
        minutes = self._minutes_now()
        # Near the full minute it is not known which minute the exchange's figure is of.
        if len(minutes) == 1 and used > self._known_used.get(minutes[0], 0):
            with self._locked() as state:
                state.minutes[minutes[0]] = max(used, state.minutes.get(minutes[0], 0))

    def block(self, retry_after_s: float) -> None:
        """No process spends anything for `retry_after_s` seconds of the exchange's clock."""
        with self._locked() as state:
            state.blocked_until_s = max(state.blocked_until_s, time.time() + self._clock.wall_s(retry_after_s))
        _log.warning("the exchange orders a stop of all requests", seconds=retry_after_s, pool=self.path.stem)

    def used_now(self) -> int:
        """Weight counted for the current minute, by all processes."""
        with self._locked() as state:
            return max(state.minutes.get(minute, 0) for minute in self._minutes_now())

    def _take(self, weight: int) -> float:
        """Count `weight` and return 0, or return how many exchange seconds to wait before trying again."""
        with self._locked() as state:
            blocked_s = state.blocked_until_s - time.time()
            if blocked_s > 0:
                return blocked_s * self._clock.speed
            minutes = self._minutes_now()
            if any(state.minutes.get(minute, 0) + weight > self.limit for minute in minutes):
                return self._until_next_minute_s()
            for minute in minutes:
                state.minutes[minute] = state.minutes.get(minute, 0) + weight
            return 0.0

    def _minutes_now(self) -> list[int]:
        """The minutes in which the exchange may count a request sent now: two of them near the full minute."""
        now_ms = self._clock.now_ms()
        return sorted({floor_to(now_ms - self._guard_ms, MINUTE_MS), floor_to(now_ms + self._guard_ms, MINUTE_MS)})

    def _until_next_minute_s(self) -> float:
        """Seconds until a new minute has begun for sure."""
        now_ms = self._clock.now_ms() - self._guard_ms
        return (floor_to(now_ms, MINUTE_MS) + MINUTE_MS - now_ms + 1) / 1000

    @contextmanager
    def _locked(self) -> Iterator[_State]:
        """The state, held by this process alone and written back; for some hundred microseconds, never over an await."""
        try:
            with self._lock.acquire(timeout=_LOCK_TIMEOUT_S, poll_interval=0.001):
                state = self._read()
                yield state
                self._write(state)
        except (TimeoutError, OSError) as error:
            raise Refused(
                f"the request budget {self.path} cannot be written: {error}", hint="see that the folder is writable"
            ) from error

    def _read(self) -> _State:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            state = _State(
                {int(minute): int(used) for minute, used in content["minutes"].items()},
                float(content["written_s"]),
                float(content["blocked_until_s"]),
            )
        except (FileNotFoundError, ValueError, KeyError, AttributeError, TypeError):
            return _State()
        # A count older than its minute is of another exchange that replayed the same hour at this address.
        if not 0 <= time.time() - state.written_s <= self._clock.wall_s((MINUTE_MS + 2 * self._guard_ms) / 1000) + 1:
            state.minutes = {}
        return state

    def _write(self, state: _State) -> None:
        oldest = min(self._minutes_now())
        content = {
            "minutes": {str(minute): used for minute, used in state.minutes.items() if minute >= oldest},
            "written_s": time.time(),
            "blocked_until_s": state.blocked_until_s,
        }
        self._known_used = state.minutes
        # One short write of one length, under the lock: a renamed draft would take ten times as long, and what a
        # kill could tear would be begun anew.
        descriptor = os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            os.pwrite(descriptor, json.dumps(content).ljust(_FILE_BYTES).encode(), 0)
        finally:
            os.close(descriptor)


def shared_folder() -> Path:
    """The folder of the budget files: one a user and host, whatever OHLCV_HOME is, for the address is one too.

    Raises:
        Refused: somebody else made a folder of that name.
    """
    folder = Path(tempfile.gettempdir()) / f"ohlcv-assets-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise Refused(
            f"{folder} is not this user's own folder", hint="remove it, or set TMPDIR to a folder of your own"
        )
    return folder
