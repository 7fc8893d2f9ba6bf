"""What the lake knew before, and what it knows not to have: on a folder and on a real S3 server."""

import io
from datetime import UTC, date, datetime, timedelta, timezone

import polars as pl
import pyarrow.parquet as pq
import pytest

from ohlcv_assets.bars import CAPTURED_SCHEMA, SCHEMA
from ohlcv_assets.errors import CorruptFile, DayMissing, InvalidBars, NaiveTime, NoBars, UsageError
from ohlcv_assets.storage.absent_file import ABSENT_SCHEMA
from ohlcv_assets.storage.bars_file import content_hash
from ohlcv_assets.storage.changes import CHANGES_SCHEMA
from ohlcv_assets.storage.lake import Lake
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, parse_time
from ohlcv_assets_tests.builders import SYMBOLS, bars, corrupted, without
from ohlcv_assets_tests.fixtures.lake import S3Server
from ohlcv_assets_tests.fixtures.s3_proxy import S3Proxy
from ohlcv_assets_tests.integration.test_lake import DAILY, DAY, overwrite

START_MS = parse_time("2025-06-01")
FIRST, SECOND = bars(seed=1), bars(seed=2)


def write(lake: Lake, *contents: pl.DataFrame) -> list[datetime]:
    """A moment before the first of these contents replaced what was there, and one after each."""
    moments = [datetime.now(UTC)]
    for content in contents:
        lake.write_day(DAILY, DAY, content, replace=True)
        moments.append(datetime.now(UTC))
    return moments


def absent(*rows: tuple[str, int, str | None, str | None]) -> pl.DataFrame:
    said = [(symbol, START_MS + minute * MINUTE_MS, cause, proof) for symbol, minute, cause, proof in rows]
    return pl.DataFrame(said, schema=ABSENT_SCHEMA, orient="row")


# Versions -----------------------------------------------------------------------------------------------------------


def test_every_content_of_a_day_is_a_version(lake: Lake) -> None:
    """A, B, A are three versions, oldest first, each with its hash, its time and its object; the last is the present one."""
    moments = write(lake, FIRST, SECOND, FIRST)
    versions = lake.versions(DAILY, DAY)
    assert [version.content_hash for version in versions] == [content_hash(frame) for frame in (FIRST, SECOND, FIRST)]
    assert [version.current for version in versions] == [False, False, True]
    for version, before, after in zip(versions, moments, moments[1:], strict=False):
        assert before <= version.known_at <= after
        stored = pl.read_parquet(io.BytesIO(lake.get(version.key)), hive_partitioning=False)
        assert stored["knowledge_timestamp"].unique().to_list() == [version.known_at]
    assert versions[-1].key == DAILY.key(DAY)


def test_the_same_content_again_is_no_version(lake: Lake) -> None:
    """A day that was written twice with the same content has one version, known since the first time."""
    moments = write(lake, FIRST, FIRST)
    (only,) = lake.versions(DAILY, DAY)
    assert moments[0] <= only.known_at <= moments[1]


@pytest.mark.parametrize("symbols", [None, [SYMBOLS[1]]])
def test_a_day_is_read_as_it_was_known(lake: Lake, symbols: list[str] | None) -> None:
    """At each moment the version that was current then is read, whole or some symbols of it; before the first: none."""
    before, first, second, third = write(lake, FIRST, SECOND, FIRST)
    for moment, content in ((first, FIRST), (second, SECOND), (third, FIRST)):
        read = lake.read_day(DAILY, DAY, symbols=symbols, as_of=moment)
        expected = content if symbols is None else content.filter(pl.col("symbol").is_in(symbols))
        assert dict(read.schema) == SCHEMA
        assert read.select(list(CAPTURED_SCHEMA)).equals(expected)
    with pytest.raises(NoBars, match="was not known at"):
        lake.read_day(DAILY, DAY, symbols=symbols, as_of=before)


def test_a_version_is_known_from_its_very_microsecond(lake: Lake) -> None:
    """At the moment of a version's knowledge_timestamp it is the current one, and a microsecond before it is not."""
    write(lake, FIRST, SECOND)
    known_at = lake.versions(DAILY, DAY)[1].known_at
    assert lake.read_day(DAILY, DAY, as_of=known_at).equals(lake.read_day(DAILY, DAY))
    earlier = lake.read_day(DAILY, DAY, as_of=known_at - timedelta(microseconds=1))
    assert earlier.select(list(CAPTURED_SCHEMA)).equals(FIRST)


def test_a_moment_in_another_zone_is_the_same_moment(lake: Lake) -> None:
    """An `as_of` in the offset of some other place reads the version that was current then, and so do differences."""
    _, first, second = write(lake, FIRST, SECOND)
    here, later = (moment.astimezone(timezone(timedelta(hours=2))) for moment in (first, second))
    assert lake.read_day(DAILY, DAY, as_of=here).equals(lake.read_day(DAILY, DAY, as_of=first))
    assert lake.changes(DAILY, DAY, here, later).equals(lake.changes(DAILY, DAY, first, second))


def test_a_present_read_knows_nothing_of_versions(lake: Lake) -> None:
    """Reads and scans without `as_of` give the present content alone."""
    write(lake, FIRST, SECOND)
    assert lake.read_day(DAILY, DAY).select(list(CAPTURED_SCHEMA)).equals(SECOND)
    assert lake.scan(DAILY, [DAY]).collect().select(list(CAPTURED_SCHEMA)).equals(SECOND)
    assert lake.days(DAILY) == [DAY]


def test_a_day_that_is_not_there_has_no_versions(lake: Lake) -> None:
    """A missing day is named, whatever is asked of it; a moment without a zone is refused."""
    now = datetime.now(UTC)
    for ask in (
        lambda: lake.versions(DAILY, DAY),
        lambda: lake.read_day(DAILY, DAY, as_of=now),
        lambda: lake.content_hash_of(DAILY, DAY),
        lambda: lake.changes(DAILY, DAY, now, now),
    ):
        with pytest.raises(DayMissing, match="date=2025-06-01"):
            ask()
    write(lake, FIRST)
    with pytest.raises(NaiveTime):
        lake.read_day(DAILY, DAY, as_of=datetime(2025, 6, 1))  # noqa: DTZ001


def test_a_damaged_file_that_was_replaced_is_no_version(lake: Lake) -> None:
    """What could not be read is kept for people, and as-of reads do not stumble over it."""
    write(lake, FIRST)
    overwrite(lake, DAILY.key(DAY), b"nothing of ours")
    with pytest.raises(CorruptFile):
        lake.versions(DAILY, DAY)
    replaced = lake.write_day(DAILY, DAY, SECOND, replace=True).replaced_key
    assert replaced is not None
    assert lake.get(replaced) == b"nothing of ours"
    assert [version.current for version in lake.versions(DAILY, DAY)] == [True]


def test_a_writer_killed_between_keeping_and_replacing_makes_no_version(lake: Lake, monkeypatch) -> None:
    """When the former content was kept and the new one never came, the day has one version still."""
    moments = write(lake, FIRST)
    with monkeypatch.context() as patched:
        patched.setattr(lake._store, "put_if", killed)
        with pytest.raises(KeyboardInterrupt):
            write(lake, SECOND)
    (only,) = lake.versions(DAILY, DAY)
    assert only.current
    assert lake.read_day(DAILY, DAY, as_of=moments[1]).select(list(CAPTURED_SCHEMA)).equals(FIRST)


def killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


# The hash -----------------------------------------------------------------------------------------------------------


def test_the_hash_of_a_day_is_noted_in_it(lake: Lake) -> None:
    """The content hash of a stored day is that of its bars, also after it was replaced."""
    write(lake, FIRST)
    assert lake.content_hash_of(DAILY, DAY) == content_hash(FIRST)
    write(lake, SECOND)
    assert lake.content_hash_of(DAILY, DAY) == content_hash(SECOND)


def test_the_hash_costs_no_rows(s3_server: S3Server, s3_proxy: S3Proxy) -> None:
    """The hash of a large day on S3 costs a small part of its bytes."""
    lake = Lake(s3_server.new_url())
    written = lake.write_day(DAILY, DAY, bars([f"S{number:03}/USDT:USDT" for number in range(200)], minutes=1440))
    before = s3_proxy.bytes_down
    assert lake.content_hash_of(DAILY, DAY) == written.content_hash
    assert s3_proxy.bytes_down - before < written.bytes / 20


def test_a_file_without_a_hash_is_damaged(lake: Lake) -> None:
    """A Parquet file that somebody else put there, or no Parquet at all, has no hash to be believed."""
    write(lake, FIRST)
    buffer = io.BytesIO()
    pq.write_table(FIRST.to_arrow(), buffer)
    for content in (buffer.getvalue(), b"PAR1 or not"):
        overwrite(lake, DAILY.key(DAY), content)
        with pytest.raises(CorruptFile):
            lake.content_hash_of(DAILY, DAY)


# Changes ------------------------------------------------------------------------------------------------------------


def test_the_changes_of_a_day_are_named(lake: Lake) -> None:
    """Between two moments each changed column, new bar and bar that is gone is one row, with its value before and after."""
    changed = corrupted(corrupted(FIRST, 3, "close", FIRST["open"][3]), 3, "trade_count", 9_999)
    moments = write(lake, without(FIRST, 5), without(changed, 7))
    version = lake.versions(DAILY, DAY)[1]
    found = lake.changes(DAILY, DAY, moments[1], moments[2])
    assert dict(found.schema) == CHANGES_SCHEMA
    symbol, known = SYMBOLS[0], version.known_at
    assert found.rows() == [
        (symbol, START_MS + 3 * MINUTE_MS, "changed", "close", FIRST["close"][3], FIRST["open"][3], known, None),
        (symbol, START_MS + 3 * MINUTE_MS, "changed", "trade_count", FIRST["trade_count"][3], 9_999.0, known, None),
        (symbol, START_MS + 5 * MINUTE_MS, "new", None, None, None, known, None),
        (symbol, START_MS + 7 * MINUTE_MS, "gone", None, None, None, known, None),
    ]


def test_what_went_and_came_back_has_not_changed(lake: Lake) -> None:
    """A, B, A: nothing between the first and the last, everything is new since before the first, nothing before it."""
    before, first, _, last = write(lake, FIRST, SECOND, FIRST)
    assert lake.changes(DAILY, DAY, first, last).is_empty()
    new = lake.changes(DAILY, DAY, before, last)
    assert new["kind"].to_list() == ["new"] * FIRST.height
    assert lake.changes(DAILY, DAY, before - timedelta(days=1), before).is_empty()


# What is absent -----------------------------------------------------------------------------------------------------


def test_absent_minutes_come_back_with_their_cause(lake: Lake, lake_url: str) -> None:
    """What is known not to be there is kept beside the day, sorted, and is told anew by whoever downloads again."""
    said = absent(("A/U:U", 7, "exchange_halt", '{"answers": 2}'), ("A/U:U", 3, "not_listed_yet", None))
    location = lake.write_absent(DAILY, DAY, said)
    assert location == f"{lake_url}/{DAILY.path}/date=2025-06-01/absent.parquet"
    assert lake.read_absent(DAILY, DAY).equals(said.sort("timestamp"))
    lake.write_absent(DAILY, DAY, absent())
    assert lake.read_absent(DAILY, DAY).equals(absent())


def test_absence_is_no_day(lake: Lake) -> None:
    """Where nobody has said anything nothing is known to be absent, and the file of absences makes no day."""
    assert lake.read_absent(DAILY, DAY).equals(absent())
    lake.write_absent(DAILY, DAY, absent(("A/U:U", 7, "exchange_halt", None)))
    assert lake.days(DAILY) == []
    assert lake.read_absent(DAILY, date(2025, 6, 2)).is_empty()
    with pytest.raises(UsageError, match="write_absent"):
        lake.put(f"{DAILY.folder(DAY)}/absent.parquet", b"x")


@pytest.mark.parametrize(
    "broken",
    [
        absent(("A/U:U", 1440, "exchange_halt", None)),
        absent(("A/U:U", -1, "exchange_halt", None)),
        absent(("A/U:U", 1, "exchange_halt", None)).with_columns(pl.col("timestamp") + 1),
        absent(("A/U:U", 1, "exchange_halt", None), ("A/U:U", 1, "delisted", None)),
        absent(("A/U:U", 1, None, None)),
        absent(("A/U:U", 1, "exchange_halt", None)).drop("cause"),
        absent(("A/U:U", 1, "exchange_halt", None)).with_columns(pl.col("timestamp") * DAY_MS),
    ],
)
def test_what_cannot_be_absent_is_refused(lake: Lake, broken: pl.DataFrame) -> None:
    """Another day's minute, none at all, one twice or without a cause is not kept."""
    with pytest.raises(InvalidBars):
        lake.write_absent(DAILY, DAY, broken)
    assert lake.read_absent(DAILY, DAY).is_empty()


def test_a_damaged_list_of_absences_is_named(lake: Lake) -> None:
    """A list that cannot be read is not taken for an empty one."""
    for content in (b"no Parquet", lake_file(FIRST)):
        overwrite(lake, f"{DAILY.folder(DAY)}/absent.parquet", content)
        with pytest.raises(CorruptFile, match=r"absent\.parquet"):
            lake.read_absent(DAILY, DAY)


def lake_file(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()
