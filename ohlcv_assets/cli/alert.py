"""`ohlcv alert --test`: does the webhook take a message?

Lives here: the command. Does not: the message (quality/alerts.py), or the POST (quality/webhook.py).
"""

from __future__ import annotations

from typing import Annotated

import typer

from ohlcv_assets.cli.asked import JsonOption, print_json
from ohlcv_assets.errors import UsageError
from ohlcv_assets.settings import settings


def alert(
    test: Annotated[bool, typer.Option("--test", help="Send one message to OHLCV_ALERT_WEBHOOK_URL.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say whether alerts arrive, by sending a test.

    \b
    Examples:
      ohlcv alert --test

    Exit code: 0 the message was taken, 2 no webhook is set, 3 it refuses the message or does not answer.
    """  # noqa: D301  the backspace keeps the lines of the examples apart
    from ohlcv_assets.quality.alerts import trial_message
    from ohlcv_assets.quality.webhook import deliver

    configured = settings()
    if not test:
        raise UsageError("nothing is to be sent", hint="ohlcv alert --test")
    if configured.alert_webhook_url is None:
        raise UsageError("OHLCV_ALERT_WEBHOOK_URL is not set", hint="see docs/how-to/get-alerts.md")
    deliver(configured.alert_webhook_url, trial_message(f"in {configured.region}", configured.ui_url))
    if as_json:
        print_json({"taken": True})
    else:
        typer.echo("the webhook took the message")
