"""Promises of the checks' page: every check that the UI shows is explained, in the words that the UI shows."""

from ohlcv_assets.orchestration.checks import CHECKS
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
