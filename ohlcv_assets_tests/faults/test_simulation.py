"""The deterministic simulation, held to its own promises: many seeds, one history a seed, and bugs that it must find."""

import os
import subprocess
import sys

import pytest

from ohlcv_assets_tests.faults.simulation.run import simulate

SEEDS = range(60)
MINUTES = 8


@pytest.mark.parametrize("first", SEEDS[::10])
def test_nothing_is_lost_doubled_or_wrong_under_random_faults(first):
    """Ten seeds of faults: every bar stored once and right, every corruption found, no false alarm."""
    verdicts = [simulate(seed, minutes=MINUTES) for seed in range(first, first + 10)]
    assert [(verdict.seed, verdict.violations) for verdict in verdicts if verdict.violations] == []
    assert sum(verdict.lost + verdict.duplicated + verdict.wrong + verdict.false_alarms for verdict in verdicts) == 0
    assert all(verdict.found == verdict.planted > 0 for verdict in verdicts)


def test_a_seed_is_one_history():
    """The same seed gives the same history to the last event, in this process and in one that hashes otherwise."""
    here = [simulate(seed, minutes=MINUTES).trace for seed in (2, 2, 5)]
    code = (
        "from ohlcv_assets_tests.faults.simulation.run import simulate;"
        f"print(*(simulate(seed, minutes={MINUTES}).trace for seed in (2, 5)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    there = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert here[0] == here[1]
    assert there.stdout.split() == [here[0], here[2]]
    assert here[0] != here[2]


def test_the_real_database_gives_the_same_verdict(database):
    """With PostgreSQL in the place of the store in memory, a run has the same history and the same verdict."""
    for seed in (2, 8):
        in_memory, in_postgres = simulate(seed, minutes=MINUTES), simulate(seed, minutes=MINUTES, database=database)
        assert in_postgres.violations == ()
        assert (in_postgres.trace, in_postgres.revisions) == (in_memory.trace, in_memory.revisions)
