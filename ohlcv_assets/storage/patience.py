"""For how long a store that does not answer is asked again: shortly until it has answered once, then as long as ever.

Lives here: that choice, one object a store; the retry of the lake's stores. Does not: the retry of PostgreSQL (connections.py), or
who is in a hurry: streams and Dagster's runs never are, a command at a terminal is (cli/stores.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from typing import Concatenate, ParamSpec, TypeVar

import stamina

from ohlcv_assets.errors import LakeUnavailable

#: Of the lake's stores: for so long they are asked again, and so often at most.
_PATIENCE_S, _ATTEMPTS = 60.0, 6


@dataclass
class Patience:
    """How long one store is waited for.

    Attributes:
        usual_s: how many seconds an outage is waited for.
        first_contact_s: how many, as long as the store has not answered at all: its address may be wrong, and nothing that
            was begun is lost by giving up. None: as many as ever.
        has_answered: whether it ever did.
    """

    usual_s: float
    first_contact_s: float | None = None
    has_answered: bool = False

    def seconds(self, usual_s: float | None = None) -> float:
        """How long the store is waited for now; `usual_s` in the place of its own, where one call has another."""
        usual_s = self.usual_s if usual_s is None else usual_s
        if self.has_answered or self.first_contact_s is None:
            return usual_s
        return min(usual_s, self.first_contact_s)


class PatientStore:
    """A store of objects whose methods are `retried` for as long as its patience says."""

    def __init__(self, first_contact_s: float | None) -> None:
        self.patience = Patience(_PATIENCE_S, first_contact_s)


_Store = TypeVar("_Store", bound=PatientStore)
_P = ParamSpec("_P")
_T = TypeVar("_T")


def retried(method: Callable[Concatenate[_Store, _P], _T]) -> Callable[Concatenate[_Store, _P], _T]:
    """The same method of a store, asked again while it raises `LakeUnavailable`, for as long as the store's patience says."""

    # stamina's own decorator logs every argument, and one of ours is a day's file.
    @wraps(method)
    def again(store: _Store, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        answer = _asking(store.patience.seconds())(method, store, *args, **kwargs)
        store.patience.has_answered = True
        return answer

    return again


@cache
def _asking(patience_s: float) -> stamina.BoundRetryingCaller:
    """The retry of a store that is waited for so long: its usual pauses, or those of a shorter time."""
    if patience_s >= _PATIENCE_S:
        calls = stamina.RetryingCaller(attempts=_ATTEMPTS, timeout=_PATIENCE_S, wait_initial=0.25, wait_max=8.0)
    elif patience_s > 0:
        calls = stamina.RetryingCaller(attempts=None, timeout=patience_s, wait_initial=0.25, wait_max=1.0)
    else:
        calls = stamina.RetryingCaller(attempts=1, timeout=None)
    return calls.on(LakeUnavailable)
