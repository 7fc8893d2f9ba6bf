"""Promises of the checks' page: every check that the UI shows is explained, in the words that the UI shows."""

from ohlcv_assets.orchestration.checks import CHECKS
from ohlcv_assets.orchestration.ledger import MEANINGS
from ohlcv_assets.quality.causes import Cause
from ohlcv_assets.quality.ledger import State
from ohlcv_assets_tests.docs.test_reference import table


def test_every_check_is_on_its_page_with_its_meaning_and_its_way_out() -> None:
    """Name, meaning, whether it blocks, and what to do when it is red, as the code has them."""
    shown = [
        [name, f"{means} When red: {red[0].lower()}{red[1:]}", blocks]
        for name, means, blocks, red in table("checks", "check")
    ]
    meant = []
    for check in CHECKS:
        means, red = check.meaning.split(" When red: ")
        meant.append(
            [
                check.name,
                f"{means} When red: {red[0].lower()}{red[1:]}",
                "yes" if check.blocking else "warns" if check.warns else "no",
            ]
        )
    assert shown == meant


def test_the_checks_of_the_ledger_are_there_in_the_words_that_the_ui_shows() -> None:
    """Name, meaning and way out, as the asset has them."""
    shown = {
        name: f"{means} When red: {red[0].lower()}{red[1:]}"
        for name, means, _, red in table("checks", "check of the ledger")
    }
    meant = {}
    for name, meaning in MEANINGS.items():
        means, red = meaning.split(" When red: ")
        meant[name] = f"{means} When red: {red[0].lower()}{red[1:]}"
    assert shown == meant


def test_every_state_and_cause_of_the_ledger_is_explained() -> None:
    """The page of the ledger has a row for each, and no other."""
    assert {row[0].strip("`") for row in table("ledger", "state")} == {state.value for state in State}
    assert {row[0].strip("`") for row in table("ledger", "cause of a gap")} == {cause.value for cause in Cause}
