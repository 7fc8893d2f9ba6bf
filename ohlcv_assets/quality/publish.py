"""The result of a QA run on its way into the lake: the verdict's frames, the pages, and what names the newest.

Lives here: in which order they are written, the same for both flows. Does not: where they lie (results.py), the comparison
(verdict.py), or how a page looks (report/).
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from ohlcv_assets.clock import utc_now
from ohlcv_assets.quality.diagnosis import diagnose
from ohlcv_assets.quality.expectations import Validation
from ohlcv_assets.quality.heat_map import heat_map
from ohlcv_assets.quality.report.findings import neighbours
from ohlcv_assets.quality.report.pages import match_page, soundness_page
from ohlcv_assets.quality.results import LATEST
from ohlcv_assets.quality.verdict import Verdict, store_verdict
from ohlcv_assets.storage.lake import Lake


@dataclass(frozen=True)
class Stored:
    """Where the parts of a result are, paths or URLs, and the picture of it."""

    differences: str
    pages: Mapping[str, str]
    heat_map: bytes


def store_result(
    lake: Lake,
    verdict: Verdict,
    validations: Mapping[str, Validation],
    folder: str,
    run_id: str,
    *,
    explained: pl.DataFrame | None = None,
) -> Stored:
    """Keep a verdict and its pages, then let `latest.json` name it.

    Args:
        lake: where.
        verdict: both sides, compared.
        validations: what Great Expectations found, by side; empty where it was not asked.
        folder: `partition_folder`.
        run_id: of the run that found it.
        explained: `explained.EXPLAINED_SCHEMA`: minutes that are proven not to be there.
    """
    here, now, picture = f"{folder}/run={run_id}", utc_now(), heat_map(verdict, explained)
    differences = store_verdict(lake, verdict, here)
    for name, frame in (("neighbours", neighbours(verdict)), ("diagnosis", diagnose(verdict))):
        content = io.BytesIO()
        frame.write_parquet(content)
        lake.put(f"{here}/{name}.parquet", content.getvalue())
    pages = {"report": lake.put(f"{here}/report.html", match_page(verdict, picture, now, explained).encode())}
    if validations:
        found = {side: validation.result for side, validation in validations.items()}
        lake.put(f"{here}/soundness.json", json.dumps(found, indent=1).encode())
        page = soundness_page(verdict, validations, now)
        pages["soundness"] = lake.put(f"{here}/soundness.html", page.encode())
    latest = {"folder": here, "run": run_id, "made_at": now.isoformat(), "match_pct": verdict.match.match_pct}
    lake.put(f"{folder}/{LATEST}", json.dumps(latest, indent=1).encode())
    return Stored(differences, pages, picture)
