"""What a command says while it asks a server again: one quiet line now and then, in the place of a log line an attempt.

Lives here: that line. Does not: how long is waited (storage/patience.py, exchange/retrying.py), or the error in the end
(cli/__init__.py).
"""

from __future__ import annotations

import sys
import time

from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from ohlcv_assets.errors import DatabaseUnavailable, LakeUnavailable, WebhookUnavailable

#: Who does not answer, by the error; of every other one it is the exchange.
_SERVERS = {DatabaseUnavailable: "PostgreSQL", LakeUnavailable: "the lake", WebhookUnavailable: "the webhook"}
#: A pause so short nobody wonders about; after a line there is none for so long.
_SILENT_S, _SILENT_AFTER_S = 2.0, 60.0


class Told:
    """Says who is waited for; why is said by the error in the end, and with --verbose of each attempt."""

    def __init__(self) -> None:
        self._told_s: float | None = None

    def __call__(self, details: RetryDetails) -> None:
        """One attempt has failed and another one follows."""
        now_s = time.monotonic()
        is_fresh = self._told_s is not None and now_s - self._told_s < _SILENT_AFTER_S
        if is_fresh or details.waited_so_far + details.wait_for < _SILENT_S:
            return
        self._told_s = now_s
        server = next(
            (name for kind, name in _SERVERS.items() if isinstance(details.caused_by, kind)), "the exchange"
        )
        print(f"waiting for {server}", file=sys.stderr, flush=True)


def tell_waits(*, logged: bool) -> None:
    """From now on in this process: a line now and then, or each attempt as a log line."""
    set_on_retry_hooks(None if logged else [Told()])
