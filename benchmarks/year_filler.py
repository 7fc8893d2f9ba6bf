"""Fill a Dagster instance with a year of comparisons: the platform's own keys, partitions and checks, over no bars at all.

Lives here: a run over a range of days that yields what daily_qa and ledger yield, without their work: `make bench-ui-year` measures
what the UI makes of it. Does not: daily_bars; those days are downloaded. Run as a program, with the platform's variables set.

Annotations are not postponed: Dagster reads them when an asset is defined.
"""

import sys
from collections.abc import Iterator
from typing import Any

import dagster as dg

from ohlcv_assets.instruments import Market
from ohlcv_assets.orchestration import checks, ledger
from ohlcv_assets.orchestration.common import asset_key
from ohlcv_assets.orchestration.partitions import daily_partitions
from ohlcv_assets.orchestration.preview import (
    evaluation_of_partition,
    just_stored,
    outputs_of_checks,
    silence_preview_warnings,
)
from ohlcv_assets.settings import Settings, read_settings

#: Every so-manieth day is red, each time in another check: a page with one colour would be too easy.
_RED_EVERY = 23
_RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
_ROWS = [{"symbol": "BTC/USDT", "start": "2025-06-01T12:34Z", "end": "2025-06-01T12:35Z", "bars": 1}]


def filled(settings: Settings, market: Market, name: str) -> dg.AssetsDefinition:
    """An asset with the key, the partitions and the checks of `daily_qa` or `ledger`, and with no work."""
    key, partitions = asset_key(settings, market, name), daily_partitions(settings, market)
    specs = [
        spec._replace(blocking=False)
        for spec in (checks.specs(key, partitions) if name == "daily_qa" else ledger.check_specs(key, partitions))
    ]

    @dg.asset(key=key, partitions_def=partitions, check_specs=specs)
    def fill(
        context: dg.AssetExecutionContext,
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckEvaluation | dg.Output[None]]:
        for partition in context.partition_keys:
            facts = {"bars_expected": 2880, "bars_present": 2880, "match_pct": 100.0, "taken_s": 0.5}
            context.add_asset_metadata(facts, partition_key=partition)
        yield dg.MaterializeResult()
        for number, partition in enumerate(context.partition_keys):
            judged = just_stored(context, partition)
            for place, spec in enumerate(specs):
                red = number % _RED_EVERY == 0 and place == number // _RED_EVERY % len(specs)
                yield evaluation_of_partition(
                    context,
                    spec,
                    partition,
                    judged,
                    passed=not red,
                    severity=dg.AssetCheckSeverity.ERROR,
                    description="2,880 of 2,880 expected bars are there",
                    metadata={"bars_expected": 2880, "missing_ranges": dg.MetadataValue.table(
                        [dg.TableRecord(row) for row in _ROWS])},
                )  # fmt: skip
        yield from outputs_of_checks(specs)

    return fill


def main(first: str, last: str) -> None:
    """Fill both assets of both markets from the first day to the last."""
    silence_preview_warnings()
    settings = read_settings()
    tags = dict(zip(_RANGE, (first, last), strict=True))
    with dg.DagsterInstance.get() as instance:
        for market in Market:
            for name in ("daily_qa", "ledger"):
                assert dg.materialize([filled(settings, market, name)], instance=instance, tags=tags).success  # noqa: S101


if __name__ == "__main__":
    main(*sys.argv[1:])
