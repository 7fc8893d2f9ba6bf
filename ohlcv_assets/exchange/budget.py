"""The request weight that this host may spend on the exchange, shared by all processes of this user.

Lives here: the count of weight per UTC clock minute of the exchange (Binance resets its own at the full minute;
it is no sliding window), in a small locked file per exchange host and market, the stop that a 429 or 418
orders, and who goes first. Does not: what a request weighs (binance.py).

There are two lanes. Realtime repairs may spend all of the budget at any time. Bulk work leaves a fifth of it untouched in
the first half of each minute, when the bars that the stream missed are asked for, and a fiftieth to the end; and
while a realtime request waits, its weight is kept back as well, by every process, for the claim is in the file.

The exchange's own count, which it sends with every answer, corrects ours upward: others may share the address. What was
sent before the full minute and is not answered after it is counted in both minutes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
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
_FILE_BYTES = 1024

#: What bulk work leaves to realtime repairs: a share of the budget until so far into the minute, and afterwards.
#: Four hundred symbols that lack their bar at T+d weigh 400 of 2,400 (futures) or 800 of 6,000 (spot).
_EARLY_MS = 30_000
_EARLY_RESERVE, _LATE_RESERVE = 0.2, 0.02
#: A realtime claim outlives its wait by so much of our own time; a killed process's claim ends by itself.
_CLAIM_EXTRA_S = 2.0
_MOST_CLAIMS = 8

_log = get_logger()


class Lane(StrEnum):
    """Who asks: what the stream missed a moment ago, or work that can wait."""

    REALTIME = "realtime"
    BULK = "bulk"


@dataclass
class _State:
    """What the file holds.

    Attributes:
        minutes: weight per minute, by UNIX ms of its start.
        written_s: when it was written, by the machine's wall clock, as are all other times.
        blocked_until_s: until when nobody asks anything.
        claims: by process, the weight that its realtime requests wait for, and until when that counts.
    """

    minutes: dict[int, int] = field(default_factory=dict)
    written_s: float = 0.0
    blocked_until_s: float = 0.0
    claims: dict[str, tuple[int, float]] = field(default_factory=dict)

    def claimed(self) -> int:
        """The weight that realtime requests of all processes wait for."""
        return sum(weight for weight, until_s in self.claims.values() if until_s > time.time())


@dataclass(eq=False)
class _UnderWay:
    """A request that may be on the wire, and the last minute it was counted in (UNIX ms)."""

    weight: int
    last_minute: int


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
        self._token = secrets.token_hex(4)
        self._waiting = 0
        self._under_way: list[_UnderWay] = []
        self._clock = clock
        self._lock = FileLock(folder / f"{name}.lock")
        transit_ms = min(_TRANSIT_S * 1000 * clock.speed, _WIDEST_GUARD_MS)
        self._guard_ms = math.ceil(max(transit_ms, min(clock.uncertainty_s * 1000, _WIDEST_GUARD_MS)))

    @property
    def bulk_limit(self) -> int:
        """Weight a minute that bulk work of this host may spend in all."""
        return self.limit - self._reserve(_LATE_RESERVE)

    async def spend(self, weight: int, lane: Lane = Lane.REALTIME) -> None:
        """Return as soon as `weight` may be spent; it is counted then.

        Raises:
            BadSetting: the limit is less than this one request.
        """
        if weight > (self.bulk_limit if lane is Lane.BULK else self.limit):
            raise BadSetting(
                f"a request weighs {weight}, the budget is {self.limit} a minute", hint="raise OHLCV_WEIGHT_SHARE"
            )
        claim = weight if lane is Lane.REALTIME else 0
        self._waiting += claim
        try:
            while (wait_s := self._take(weight, lane)) > 0:
                await self._clock.sleep(wait_s)
        finally:
            self._waiting -= claim
        self.spent += weight

    @asynccontextmanager
    async def spending(self, weight: int, lane: Lane) -> AsyncIterator[None]:
        """Spend `weight` for the request that is made inside: while it is not answered, it may count in the next minute.

        Raises:
            BadSetting: the limit is less than this one request.
        """
        await self.spend(weight, lane)
        sent = _UnderWay(weight, max(self._minutes_now()))
        self._under_way.append(sent)
        try:
            yield
        finally:
            self._under_way.remove(sent)
        self._give_back(sent)

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

    def _take(self, weight: int, lane: Lane = Lane.REALTIME) -> float:
        """Count `weight` and return 0, or return how many exchange seconds to wait before trying again."""
        with self._locked() as state:
            blocked_s = state.blocked_until_s - time.time()
            if blocked_s > 0:
                return blocked_s * self._clock.speed
            minutes = self._minutes_now()
            self._carry_over(state, max(minutes))
            fits = all(state.minutes.get(minute, 0) + weight <= self._room(state, minute, lane) for minute in minutes)
            wait_s = 0.0 if fits else self._until_next_chance_s(state, weight, lane)
            if lane is Lane.REALTIME:
                self._claim(state, self._waiting - (weight if fits else 0), wait_s)
            if fits:
                for minute in minutes:
                    state.minutes[minute] = state.minutes.get(minute, 0) + weight
            return wait_s

    def _room(self, state: _State, minute: int, lane: Lane) -> int:
        """How much of a minute's budget may be spent now, what is spent already included."""
        if lane is Lane.REALTIME:
            return self.limit
        early = self._clock.now_ms() < minute + _EARLY_MS
        return self.limit - max(self._reserve(_EARLY_RESERVE if early else _LATE_RESERVE), state.claimed())

    def _reserve(self, share: float) -> int:
        return int(self.limit * share)

    def _claim(self, state: _State, weight: int, wait_s: float) -> None:
        """Say in the file how much this process's realtime requests wait for."""
        state.claims = {token: claim for token, claim in state.claims.items() if claim[1] > time.time()}
        state.claims.pop(self._token, None)
        if weight > 0 and len(state.claims) < _MOST_CLAIMS:
            state.claims[self._token] = weight, time.time() + self._clock.wall_s(wait_s) + _CLAIM_EXTRA_S

    def _carry_over(self, state: _State, minute: int) -> None:
        """Count in this minute what was sent in an earlier one and is not answered: it may arrive only now."""
        for sent in self._under_way:
            if sent.last_minute < minute:
                sent.last_minute = minute
                state.minutes[minute] = state.minutes.get(minute, 0) + sent.weight

    def _give_back(self, sent: _UnderWay) -> None:
        """Take an answered request out of the next minute's count, when that minute has not begun for sure.

        Its answer is here, so the exchange has counted it: without this, work across the full minute would cost twice.
        """
        latest_ms = self._clock.now_ms() + math.ceil(self._clock.uncertainty_s * 1000)
        if sent.last_minute > latest_ms:
            with self._locked() as state:
                state.minutes[sent.last_minute] = max(0, state.minutes.get(sent.last_minute, 0) - sent.weight)

    def _minutes_now(self) -> list[int]:
        """The minutes in which the exchange may count a request sent now: two of them near the full minute."""
        now_ms = self._clock.now_ms()
        return sorted({floor_to(now_ms - self._guard_ms, MINUTE_MS), floor_to(now_ms + self._guard_ms, MINUTE_MS)})

    def _until_next_chance_s(self, state: _State, weight: int, lane: Lane) -> float:
        """Seconds until a new minute has begun for sure, or until bulk work may use more of this one."""
        now_ms = self._clock.now_ms()
        minute = floor_to(now_ms, MINUTE_MS)
        used = state.minutes.get(minute, 0) + weight
        if lane is Lane.BULK and now_ms < minute + _EARLY_MS and used <= self.bulk_limit:
            return (minute + _EARLY_MS - now_ms) / 1000
        begun_ms = now_ms - self._guard_ms
        return (floor_to(begun_ms, MINUTE_MS) + MINUTE_MS - begun_ms + 1) / 1000

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
                {token: (int(weight), float(until_s)) for token, (weight, until_s) in content["claims"].items()},
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
            "claims": state.claims,
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
