"""A run over several partitions: one that fails does not take the others with it.

Lives here: what became of each partition of a run, and how the run says so. Does not: the work of any of them (assets.py, qa.py,
ledger.py).

Dagster stores a step's materializations when the step succeeds, for all its partitions at once. A run that failed on one day of
seven would leave all seven missing. So the days that were done are reported one by one, and then the run fails and names the others.
Whoever asks for what is missing, or has the backfill started again from its failure, gets those alone.

A download of a month takes its time, and its process may be killed: each day is reported as soon as it is in the lake (`at_once`).
Dagster insists on a result at the end and stores it for all partitions again: such a day has two materializations of one run.

Annotations are not postponed, as in the modules that define assets.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg

from ohlcv_assets.errors import OhlcvError

#: So many failures one after the other are no matter of a day: what is left would wait for the same outage, and is not tried.
GIVE_UP_AFTER = 3


class Outcomes:
    """What became of each partition of a run: its facts, its error, or that it was not tried.

    Attributes:
        facts: what the UI shows of each partition that was done, in order.
        errors: why each of the others was not.
    """

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self.facts: dict[str, dict[str, Any]] = {}
        self.errors: dict[str, OhlcvError] = {}
        self._context = context
        self._untried: list[str] = []
        self._reported: set[str] = set()

    def trying(self, keys: list[str]) -> Iterator[str]:
        """The partitions in their order, until `GIVE_UP_AFTER` of them failed one after the other."""
        for number, key in enumerate(keys):
            last = keys[max(0, number - GIVE_UP_AFTER) : number]
            if len(last) == GIVE_UP_AFTER and all(each in self.errors for each in last):
                self._untried = keys[number:]
                return
            yield key

    @contextmanager
    def of(self, key: str) -> Iterator[dict[str, Any]]:
        """Around the work of one partition: fill in its facts; an error of ours is kept for the end of the run."""
        facts: dict[str, Any] = {}
        try:
            yield facts
        except OhlcvError as error:
            self.errors[key] = error
            self._context.log.error(f"{key}: {error}")
        else:
            self.facts[key] = facts

    def at_once(self, key: str) -> Iterator[dg.AssetMaterialization]:
        """What the run yields as soon as a partition was done, when it has others: a kill does not undo it then."""
        if key in self.facts and self._context.has_partition_key_range:
            self._reported.add(key)
            yield dg.AssetMaterialization(self._context.asset_key, partition=key, metadata=self.facts[key])

    def materializations(self) -> Iterator[dg.AssetMaterialization | dg.MaterializeResult[Any]]:
        """What the run yields for the partitions that were done; all of them by one result when none failed."""
        if self.errors:
            for key, facts in self.facts.items():
                if key in self._reported:
                    continue
                yield dg.AssetMaterialization(self._context.asset_key, partition=key, metadata=facts)
            return
        for key, facts in self.facts.items():
            self._context.add_asset_metadata(facts, partition_key=key)
        yield dg.MaterializeResult()

    def insist(self) -> None:
        """End a run in which a partition failed; yield the materializations before.

        Raises:
            dg.Failure: names each partition that failed, and why; a retry is offered when it can help all of them.
        """
        if self.errors:
            raise dg.Failure(self._said(), allow_retries=all(error.transient for error in self.errors.values()))

    def _said(self) -> str:
        tried = [*self.facts, *self.errors]
        if len(tried) == 1 and not self._untried:
            return str(*self.errors.values())
        said = [
            f"{len(self.errors)} of {len(tried) + len(self._untried)} partitions failed: {', '.join(self.errors)}"
        ]
        said += [f"{key}: {error}" for key, error in self.errors.items()]
        if self._untried:
            said.append(f"not tried after them: {', '.join(self._untried)}")
        return "\n".join([*said, "the others are stored; materialize the missing partitions again"])
