"""What every asset module needs: the key of an asset, and errors of ours as Dagster's failures.

Lives here: these two. Does not: any asset.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from ohlcv_assets.errors import OhlcvError, UsageError
from ohlcv_assets.instruments import Market
from ohlcv_assets.settings import Settings


def asset_key(settings: Settings, market: Market, name: str) -> dg.AssetKey:
    """The key of a market's asset: region, market, name."""
    return dg.AssetKey([settings.region, market.value, name])


@contextmanager
def failures() -> Iterator[None]:
    """Turn an error of ours into Dagster's failure: what happened, what to do, and whether a retry can help.

    What somebody has typed is the cause of a `UsageError`: its page says so, without the stack of how it came to our eyes.
    """
    try:
        yield
    except UsageError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    except OhlcvError as error:
        raise dg.Failure(str(error), allow_retries=error.transient) from error
