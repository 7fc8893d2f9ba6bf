"""The way of an alert to its webhook: one POST, tried again where that can help, and no word about the address.

Lives here: what each answer means, and how often and how long is tried. Does not: what the message says (alerts.py).
Whoever knows the address may post there, so that it stands in no error and no log: also an error of the HTTP client, which
would name it, stays inside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp
import stamina
from pydantic import SecretStr

from ohlcv_assets.errors import Refused, WebhookUnavailable

_ATTEMPTS = 3
#: One tick has a minute for everything, and the other sensors wait meanwhile.
_TIMEOUT_S, _PATIENCE_S = 3.0, 10.0
#: Asking again later may help, though HTTP calls these the client's fault.
_TRANSIENT_STATUSES = frozenset({408, 425, 429})


def deliver(url: SecretStr, message: Mapping[str, Any], *, timeout_s: float = _TIMEOUT_S) -> None:
    """Post a message, three times at most.

    Args:
        url: the webhook.
        message: what `json` can hold.
        timeout_s: for each answer.

    Raises:
        WebhookUnavailable: no answer, 429, or 5xx: the same message may be taken later.
        Refused: any other status above 299: the address takes no such message.
    """
    asyncio.run(_delivered(url, message, timeout_s))


async def _delivered(url: SecretStr, message: Mapping[str, Any], timeout_s: float) -> None:
    attempts = stamina.retry_context(
        on=WebhookUnavailable,
        attempts=_ATTEMPTS,
        timeout=_PATIENCE_S,
        wait_initial=0.3,
        wait_max=2.0,
        wait_jitter=0.3,
    )
    # The machine's proxy leads to the internet; NO_PROXY names what is nearer.
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s), trust_env=True) as session:
        async for attempt in attempts:
            with attempt:
                _judge(await _status(session, url, message))


async def _status(session: aiohttp.ClientSession, url: SecretStr, message: Mapping[str, Any]) -> int:
    try:
        async with session.post(url.get_secret_value(), json=message, allow_redirects=False) as answer:
            await answer.read()
            return answer.status
    except aiohttp.InvalidURL:
        what = None
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        # Its text, and it as a cause, may hold the address.
        what = type(error).__name__
    if what is None:
        raise Refused("the webhook of the alerts is no address that one can post to", hint=_HINT)
    raise WebhookUnavailable(f"the webhook of the alerts does not answer ({what})", hint=_HINT)


def _judge(status: int) -> None:
    if status < 300:
        return
    if status >= 500 or status in _TRANSIENT_STATUSES:
        raise WebhookUnavailable(f"the webhook of the alerts answers {status}", hint=_HINT)
    raise Refused(f"the webhook of the alerts refuses the message ({status})", hint=_HINT)


_HINT = "look at what OHLCV_ALERT_WEBHOOK_URL names; ohlcv alert --test sends a test"
