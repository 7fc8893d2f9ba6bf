"""Hundreds of seeds and one Markdown table: `python -m ohlcv_assets_tests.faults.simulation --seeds 300`.

Lives here: the command line. Does not: a run (run.py). Exit code 1 when any promise was broken, with the seeds and how to
play each again; `--seed 17` plays one seed and shows its whole history.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from multiprocessing import get_context

from ohlcv_assets_tests.faults.simulation.run import MINUTES, simulate
from ohlcv_assets_tests.faults.simulation.verdict import Verdict

_COMMAND = "python -m ohlcv_assets_tests.faults.simulation"


def main() -> int:
    """Run the seeds that the command line asks for; the exit code."""
    parser = argparse.ArgumentParser(prog=_COMMAND, description=__doc__)
    parser.add_argument("--seeds", type=int, default=300, help="how many seeds, from --first on")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="this seed alone, with its history")
    parser.add_argument("--minutes", type=int, default=MINUTES, help="length of the interval that is captured")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    asked = parser.parse_args()
    begun_s = time.perf_counter()
    if asked.seed is not None:
        verdicts = [simulate(asked.seed, minutes=asked.minutes, show=_show, logs=True)]
    else:
        seeds = range(asked.first, asked.first + asked.seeds)
        with get_context("spawn").Pool(asked.workers) as pool:
            verdicts = pool.map(partial(simulate, minutes=asked.minutes), seeds, chunksize=4)
    _show(table(verdicts, time.perf_counter() - begun_s))
    broken = [verdict for verdict in verdicts if verdict.violations]
    for verdict in broken:
        _show(f"\nseed {verdict.seed}: {len(verdict.violations)} broken promises, {verdict.violations[0]}")
        _show(f"  again: {_COMMAND} --seed {verdict.seed} --minutes {asked.minutes}")
    return 1 if broken else 0


def table(verdicts: Sequence[Verdict], took_s: float) -> str:
    """One Markdown table of all verdicts together."""
    faults: Counter[str] = Counter()
    for verdict in verdicts:
        faults.update(verdict.faults)
    rows: list[tuple[str, object]] = [
        ("seeds", len(verdicts)),
        ("bars", f"{_sum(verdicts, 'bars'):,}"),
        ("simulated hours", f"{sum(verdict.virtual_s for verdict in verdicts) / 3600:.1f}"),
        ("faults injected", f"{sum(n for fault, n in faults.items() if not fault.startswith('planted_')):,}"),
        *((fault, f"{count:,}") for fault, count in sorted(faults.items()) if count),
        ("**lost**", _sum(verdicts, "lost")),
        ("**duplicated**", _sum(verdicts, "duplicated")),
        ("**wrong**", _sum(verdicts, "wrong")),
        ("revisions kept", f"{_sum(verdicts, 'revisions'):,}"),
        ("**corruptions found / planted**", f"{_sum(verdicts, 'found'):,} / {_sum(verdicts, 'planted'):,}"),
        ("**false alarms**", _sum(verdicts, "false_alarms")),
        ("**seeds with a broken promise**", sum(bool(verdict.violations) for verdict in verdicts)),
        ("seconds", f"{took_s:.1f}"),
    ]
    return "\n".join(["| what | number |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows)])


def _sum(verdicts: Sequence[Verdict], name: str) -> int:
    return sum(getattr(verdict, name) for verdict in verdicts)


def _show(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
