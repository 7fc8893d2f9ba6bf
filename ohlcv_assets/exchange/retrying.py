"""Asking again: when, how often, and how long to wait in between.

Lives here: the one rule by which a failed question to the exchange is repeated. Does not: what an error means
(errors.py), or the request budget (budget.py). Waiting is counted on the exchange's clock, so that at sixty times
the speed a pause of ten seconds is one of a sixth of a second.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import stamina

from ohlcv_assets.clock import Clock
from ohlcv_assets.errors import RateLimited, TransientError

ATTEMPTS = 8
PATIENCE_S = 600.0

#: However fast the replay, a busy machine gets this much of our own time before a question is given up.
_LEAST_TIMEOUT_S = 20.0


def patiently(
    clock: Clock, *, attempts: int = ATTEMPTS, patience_s: float = PATIENCE_S
) -> AsyncIterator[stamina.Attempt]:
    """Attempts at a question to the exchange, to be walked by `async for attempt`, each entered by `with attempt`.

    A transient error is repeated after a growing, jittered pause (0.5 s to 15 s); `RateLimited` and `Banned` after
    exactly their `retry_after_s`; a permanent error never. The last error is raised as it is.

    Args:
        clock: the exchange's; every duration here is in its seconds.
        attempts: how many questions at most.
        patience_s: after this long no further attempt begins; a stop that lasts longer is raised at once.
    """
    return aiter(
        stamina.retry_context(
            on=wait_before_retry(clock, patience_s),
            attempts=attempts,
            timeout=max(clock.wall_s(patience_s), _LEAST_TIMEOUT_S),
            wait_initial=clock.wall_s(0.5),
            wait_max=clock.wall_s(15.0),
            wait_jitter=clock.wall_s(0.5),
        )
    )


def wait_before_retry(clock: Clock, patience_s: float) -> Callable[[Exception], bool | float]:
    """What stamina asks of an error: False to give up, True to pause as usual, or the seconds to wait."""

    def decide(error: Exception) -> bool | float:
        if isinstance(error, RateLimited):
            return clock.wall_s(error.retry_after_s) if error.retry_after_s <= patience_s else False
        return isinstance(error, TransientError)

    return decide
