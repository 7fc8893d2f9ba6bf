"""What Dagster loads: the graph of assets, and what loading it costs."""

import json
import subprocess
import sys
from typing import Any

import dagster as dg
import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.json import JSONSnapshotExtension

from ohlcv_assets.definitions import build_defs
from ohlcv_assets.settings import Settings


def _described(defs: dg.Definitions) -> dict[str, Any]:
    graph = defs.resolve_asset_graph()
    return {
        node.key.to_user_string(): {
            "after": sorted(parent.to_user_string() for parent in node.parent_keys),
            "partitions": type(node.partitions_def).__name__,
            "group": node.group_name,
            "fresh_within": str(node.freshness_policy.fail_window.to_timedelta()) if node.freshness_policy else None,
            "kinds": sorted(node.kinds),
            "checks": {
                key.name: {
                    "blocking": graph.get(key).blocking,
                    "partitioned": graph.get(key).partitions_def is not None,
                }
                for key in sorted(node.check_keys, key=lambda key: key.name)
            },
        }
        for node in graph.asset_nodes
    }


def test_the_asset_graph_is_the_one_that_was_reviewed(snapshot: SnapshotAssertion) -> None:
    """Keys, order, partitions, groups and checks change only together with this snapshot."""
    defs = build_defs(settings=Settings(region="stockholm"))
    repository = defs.get_repository_def()
    described = {
        "assets": _described(defs),
        "jobs": sorted(job.name for job in repository.get_all_jobs() if not job.name.startswith("__")),
        "schedules": sorted((s.name, s.cron_schedule) for s in repository.schedule_defs),
        "sensors": sorted(s.name for s in repository.sensor_defs),
    }
    assert described == snapshot(extension_class=JSONSnapshotExtension)


@pytest.mark.parametrize("region", ["stockholm", "tokyo"])
def test_a_region_is_a_deployment_of_its_own(region: str) -> None:
    """The region leads every asset key, the lake's prefix and the code location's name."""
    settings = Settings(region=region)
    keys = [key.path[0] for key in build_defs(settings=settings).resolve_asset_graph().get_all_asset_keys()]
    assert set(keys) == {region}
    assert settings.lake_url.endswith(f"/{region}")
    assert settings.location_name == f"ohlcv_{region}"


def test_definitions_are_loadable_and_sensors_wait_to_be_switched_on() -> None:
    """A bare load starts nothing; OHLCV_AUTOSTART switches sensor and schedules on."""
    for autostart in (False, True):
        defs = build_defs(settings=Settings(autostart=autostart))
        dg.Definitions.validate_loadable(defs)
        repository = defs.get_repository_def()
        states = {s.default_status.value for s in (*repository.schedule_defs, *repository.sensor_defs)}
        assert states == {"RUNNING" if autostart else "STOPPED"}


def test_resources_can_be_replaced() -> None:
    """build_defs takes another lake, database, exchange or universe by name."""
    other = dg.ResourceDefinition.hardcoded_resource("another lake")
    assert build_defs(resources={"lake": other}).resources["lake"] is other


def test_loading_the_code_location_is_light() -> None:
    """Neither Great Expectations nor ccxt nor matplotlib is imported before a run needs it."""
    code = "import sys, json, ohlcv_assets.definitions; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))
    assert not loaded & {"great_expectations", "ccxt", "matplotlib"}


def test_a_resource_never_shows_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database's password is read inside a run: no definition holds it."""
    monkeypatch.setenv("OHLCV_DATABASE_URL", "postgresql://someone:hunter2@db.example/bars")
    defs = build_defs()
    shown = repr(defs.resources) + json.dumps(
        [str(defs.resolve_job_def(name).get_job_snapshot()) for name in ("futures_stream_hour", "futures_day")]
    )
    assert "hunter2" not in shown
