"""The way of an alert to a real HTTP server: taken, refused, hanging; and the address, which nobody may see."""

import io
import json
import logging
import os
import subprocess
import sys
import traceback

import pytest
from pydantic import SecretStr

from ohlcv_assets.errors import OhlcvError, Refused, WebhookUnavailable
from ohlcv_assets.quality.webhook import deliver
from ohlcv_assets_tests.fixtures.webhook import Webhook

_MESSAGE = {"text": "two bars are missing", "blocks": []}


def test_a_message_arrives_once(webhook: Webhook) -> None:
    """What is delivered is posted once, as JSON."""
    deliver(webhook.url, _MESSAGE)
    assert webhook.posts == [_MESSAGE]
    assert webhook.asked == 1


@pytest.mark.parametrize("bad", [500, 503, 429])
def test_a_server_that_stumbles_is_asked_again(webhook: Webhook, bad: int) -> None:
    """Two failures in a row and then an answer: the message arrives, once."""
    webhook.answers = [bad, bad]
    deliver(webhook.url, _MESSAGE)
    assert webhook.posts == [_MESSAGE]
    assert webhook.asked == 3


def test_a_server_that_hangs_is_not_waited_for(webhook: Webhook) -> None:
    """No answer within the limit is a failure like another, and the next try may succeed."""
    webhook.answers = ["hang"]
    deliver(webhook.url, _MESSAGE, timeout_s=0.3)
    assert webhook.posts == [_MESSAGE]


def test_a_server_that_stays_away_is_given_up_for_now(webhook: Webhook) -> None:
    """After three tries it is a transient error: the same message may be taken later."""
    webhook.answers = [500] * 10
    with pytest.raises(WebhookUnavailable, match="answers 500") as failed:
        deliver(webhook.url, _MESSAGE)
    assert webhook.asked == 3
    assert failed.value.transient


@pytest.mark.parametrize("status", [302, 400, 403, 404, 410])
def test_a_refusal_is_not_argued_with(webhook: Webhook, status: int) -> None:
    """An address that is gone, wrong or moved is asked once."""
    webhook.answers = [status] * 3
    with pytest.raises(Refused, match=str(status)) as refused:
        deliver(webhook.url, _MESSAGE)
    assert webhook.asked == 1
    assert not refused.value.transient


@pytest.mark.parametrize("state", ["refused", "stumbling", "hanging", "gone", "no address"])
def test_the_address_is_in_no_error_and_no_log(
    webhook: Webhook, state: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it fails, neither the error with all its causes nor any log line, of any library, names the address."""
    logged = io.StringIO()
    handler = logging.StreamHandler(logged)
    monkeypatch.setattr(logging.getLogger(), "level", logging.DEBUG)
    logging.getLogger().addHandler(handler)
    url = webhook.url
    webhook.answers = {"refused": [403], "stumbling": [500] * 3, "hanging": ["hang"] * 3}.get(state, [])
    if state == "gone":
        url = SecretStr(f"http://127.0.0.1:9/services/{webhook.secret}")
    if state == "no address":
        url = SecretStr(f"http://[{webhook.secret}")
    try:
        with pytest.raises(OhlcvError) as failed:
            deliver(url, _MESSAGE, timeout_s=0.2)
    finally:
        logging.getLogger().removeHandler(handler)
    shown = "".join(traceback.format_exception(failed.value)) + repr(failed.value) + logged.getvalue()
    assert webhook.secret not in shown + "".join(capfd.readouterr())


def _alert_test(url: str | None, *more: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OHLCV_")}
    command = [sys.executable, "-m", "ohlcv_assets.cli", "-v", "alert", "--test", *more]
    variables = {"OHLCV_ALERT_WEBHOOK_URL": url} if url else {}
    return subprocess.run(command, env={**environment, **variables}, capture_output=True, text=True, timeout=60)


def test_the_command_says_whether_a_message_arrives(webhook: Webhook) -> None:
    """0 and the message is there; 3 for a refusal; 2 where no address is set; and never a word of the address."""
    taken = _alert_test(webhook.address)
    assert (taken.returncode, taken.stdout.strip()) == (0, "the webhook took the message")
    assert "a test" in webhook.posts[0]["text"]
    assert json.loads(_alert_test(webhook.address, "--json").stdout) == {"taken": True}
    webhook.answers = [410]
    refused = _alert_test(webhook.address)
    assert refused.returncode == 3
    assert "410" in refused.stderr
    unset = _alert_test(None)
    assert unset.returncode == 2
    assert "OHLCV_ALERT_WEBHOOK_URL is not set" in unset.stderr
    assert webhook.secret not in taken.stdout + taken.stderr + refused.stdout + refused.stderr
