"""The lake on a folder and on a real S3 server: what is stored once stays, whoever kills, races or damages it."""

import io
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from ohlcv_assets.bars import CAPTURED_SCHEMA, KEY, SCHEMA, VALUES, arrow_schema
from ohlcv_assets.errors import (
    BadSetting,
    CorruptFile,
    DayMissing,
    InvalidBars,
    LakeConflict,
    ObjectMissing,
    UsageError,
)
from ohlcv_assets.instruments import Market, Universe
from ohlcv_assets.storage.bars_file import GROUP_SYMBOLS, content_hash
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.timestamps import MINUTE_MS
from ohlcv_assets_tests.builders import bars, corrupted, recorded, shuffled, without
from ohlcv_assets_tests.fixtures.lake import S3Server
from ohlcv_assets_tests.fixtures.s3_proxy import S3Proxy

DAY = date(2025, 6, 1)
UNIVERSE = Universe.of("v7.3", {Market.FUTURES: ["BTC/USDT:USDT", "ETH/USDT:USDT"], Market.SPOT: ["BTC/USDT"]})
DAILY = Signature.daily(Market.FUTURES, UNIVERSE)
EXCHANGE_SAYS = [*KEY, *VALUES]


def test_a_path_says_what_it_holds(lake: Lake, lake_url: str) -> None:
    """The key of a day is the dataset's signature and the date, below the lake's folder or bucket."""
    written = lake.write_day(DAILY, DAY, bars())
    assert written.key == (
        "periodic_daily/dagster/downloaded_1min/parquet/ohlcv/futures/v7_3/ccxt/binance/date=2025-06-01/bars.parquet"
    )
    assert written.location == f"{lake_url}/{written.key}" == lake.location(written.key)


def test_what_is_read_is_what_was_written(lake: Lake) -> None:
    """Every value comes back bit for bit, in the bar's columns, sorted, known since the moment of writing."""
    before = datetime.now(UTC)
    written = lake.write_day(DAILY, DAY, shuffled(bars(minutes=1440), 3), universe_hash=UNIVERSE.content_hash)
    read = lake.read_day(DAILY, DAY)
    assert (written.outcome, written.rows, written.replaced_key) == ("created", 2880, None)
    assert dict(read.schema) == SCHEMA
    assert read.select(list(CAPTURED_SCHEMA)).equals(bars(minutes=1440))
    assert read["knowledge_timestamp"].n_unique() == 1
    assert before <= read["knowledge_timestamp"][0] <= datetime.now(UTC)


def test_the_file_is_plain_parquet_with_its_own_proof(lake: Lake) -> None:
    """Anyone's reader sees zstd Parquet in row groups of eight symbols, with hash, schema version and universe noted."""
    frame = bars([f"S{number}/USDT:USDT" for number in range(60)], minutes=1440)
    written = lake.write_day(DAILY, DAY, frame, universe_hash=UNIVERSE.content_hash)
    file = pq.ParquetFile(io.BytesIO(lake.get(written.key)))
    noted = file.metadata.metadata
    assert noted[b"ohlcv.content_hash"].decode() == written.content_hash == content_hash(frame)
    assert noted[b"ohlcv.schema_version"] == b"1"
    assert noted[b"ohlcv.universe_hash"].decode() == UNIVERSE.content_hash
    groups = range(file.metadata.num_row_groups)
    rows = [file.metadata.row_group(group).num_rows for group in groups]
    assert rows == [GROUP_SYMBOLS * 1440] * 7 + [4 * 1440]
    assert file.metadata.row_group(0).column(3).compression == "ZSTD"
    assert file.schema_arrow.equals(arrow_schema())
    assert lake.read_day(DAILY, DAY).equals(pl.DataFrame(file.read()))


def test_a_row_group_holds_whole_symbols(lake: Lake) -> None:
    """Also where symbols lack minutes a row group begins and ends with a symbol, and its statistics name the two."""
    symbols = [f"S{number:02}/USDT:USDT" for number in range(20)]
    frame = pl.concat([bars([symbol], minutes=1440 - 7 * at) for at, symbol in enumerate(symbols)])
    written = lake.write_day(DAILY, DAY, frame)
    metadata = pq.ParquetFile(io.BytesIO(lake.get(written.key))).metadata
    held = [metadata.row_group(group).column(1).statistics for group in range(metadata.num_row_groups)]
    assert [(group.min, group.max) for group in held] == [
        (symbols[0], symbols[7]),
        (symbols[8], symbols[15]),
        (symbols[16], symbols[19]),
    ]
    assert lake.read_day(DAILY, DAY).select(list(CAPTURED_SCHEMA)).equals(frame)


def test_a_file_of_the_former_layout_reads_the_same(lake: Lake) -> None:
    """A day that polars wrote, in row groups of 5,760 rows, is read whole and in parts, and the same content leaves it."""
    frame = bars([f"S{number}/USDT:USDT" for number in range(9)], minutes=1440)
    written = lake.write_day(DAILY, DAY, frame)
    file = io.BytesIO(lake.get(written.key))
    noted = {name: text for name, text in pl.read_parquet_metadata(file).items() if name.startswith("ohlcv.")}
    former = io.BytesIO()
    pl.read_parquet(file).write_parquet(former, compression="zstd", row_group_size=5760, metadata=noted)
    overwrite(lake, written.key, former.getvalue())
    assert lake.read_day(DAILY, DAY).select(list(CAPTURED_SCHEMA)).equals(frame)
    one = lake.read_day(DAILY, DAY, symbols=["S5/USDT:USDT"])
    assert one.select(list(CAPTURED_SCHEMA)).equals(frame.filter(symbol="S5/USDT:USDT"))
    assert lake.write_day(DAILY, DAY, frame).outcome == "unchanged"
    assert lake.get(written.key) == former.getvalue()


def test_the_same_content_again_leaves_the_object_as_it_is(lake: Lake) -> None:
    """A second download that says the same, at another time and in another order, changes not one byte."""
    first = lake.write_day(DAILY, DAY, bars())
    stored = lake.get(first.key)
    later = shuffled(bars(), 5).with_columns(pl.col("end_download_timestamp").dt.offset_by("1h"))
    again = lake.write_day(DAILY, DAY, later, replace=True)
    assert (again.outcome, again.content_hash, again.bytes) == ("unchanged", first.content_hash, len(stored))
    assert lake.get(first.key) == stored


@pytest.mark.parametrize("column", VALUES)
def test_other_content_is_a_conflict(lake: Lake, column: str) -> None:
    """One other value in any column raises, and what was stored stays; the launchpad, a terminal and Python each have a way on."""
    first = lake.write_day(DAILY, DAY, bars())
    stored = lake.get(first.key)
    changes = {"open": pl.col("low"), "close": pl.col("low"), "high": pl.col("high") + 1, "low": pl.col("low") - 1}
    other = bars().with_columns(changes.get(column, pl.col(column) * 2).cast(SCHEMA[column]).alias(column))
    if column.startswith("taker"):
        other = bars().with_columns(pl.lit(0.0).alias(column))
    with pytest.raises(LakeConflict) as refused:
        lake.write_day(DAILY, DAY, other)
    for way in (
        "`replace: true` in the launchpad",
        f"ohlcv verify --market futures --day {DAY},",
        "write_day(replace=True)",
    ):
        assert way in refused.value.hint
    assert lake.get(first.key) == stored


def test_fewer_bars_are_a_conflict(lake: Lake) -> None:
    """A day that lacks a bar which is stored already does not take its place."""
    lake.write_day(DAILY, DAY, bars())
    with pytest.raises(LakeConflict, match=r"\(20 bars\).*\(19 bars\)"):
        lake.write_day(DAILY, DAY, without(bars(), 4))


def test_what_is_replaced_is_kept(lake: Lake) -> None:
    """A replacement keeps each former content, byte for byte, where no scan picks it up."""
    versions = [bars(seed=seed) for seed in (1, 2, 1)]
    contents = []
    outcomes = []
    for version in versions:
        outcomes.append(lake.write_day(DAILY, DAY, version, replace=True))
        contents.append(lake.get(outcomes[-1].key))
    assert [written.outcome for written in outcomes] == ["created", "replaced", "replaced"]
    for former, written, content in zip(outcomes, outcomes[1:], contents, strict=False):
        assert written.replaced_key is not None
        assert former.content_hash.removeprefix("sha256:")[:12] in written.replaced_key
        assert lake.get(written.replaced_key) == content
    assert lake.days(DAILY) == [DAY]
    assert lake.scan(DAILY, [DAY]).select(EXCHANGE_SAYS).collect().equals(bars(seed=1).select(EXCHANGE_SAYS))


def test_a_scan_reads_the_days_asked_for(lake: Lake) -> None:
    """A scan over days gives their bars and no others, with filters and columns pushed down, and names a missing day."""
    days = [date(2025, 6, 1), date(2025, 6, 2), date(2025, 6, 4)]
    for day in days:
        lake.write_day(DAILY, day, bars(start=day.isoformat()))
    assert lake.days(DAILY) == days
    found = lake.scan(DAILY, days[1:]).filter(pl.col("symbol") == "ETH/USDT:USDT").select("timestamp", "close")
    expected = pl.concat([bars(start=day.isoformat()) for day in days[1:]]).filter(symbol="ETH/USDT:USDT")
    assert found.collect().equals(expected.select("timestamp", "close"))
    assert "SELECTION" in found.explain()
    with pytest.raises(DayMissing, match="date=2025-06-03"):
        lake.scan(DAILY, [date(2025, 6, 3)])
    assert dict(lake.scan(DAILY, []).collect_schema()) == SCHEMA


def test_a_day_that_is_not_there_is_named(lake: Lake) -> None:
    """Reading a missing day, or a missing object, says which; a lake without a folder is simply empty."""
    assert lake.days(DAILY) == []
    with pytest.raises(DayMissing, match="date=2025-06-01"):
        lake.read_day(DAILY, DAY)
    with pytest.raises(DayMissing, match="date=2025-06-01"):
        lake.read_day(DAILY, DAY, symbols=["BTC/USDT:USDT"])
    with pytest.raises(ObjectMissing, match="nowhere"):
        lake.get("qa/nowhere.html")


def test_symbols_are_read_without_the_rest_of_the_file(lake: Lake) -> None:
    """A reader of one symbol touches only its row group: it succeeds where another group is damaged, and a whole read fails."""
    symbols = [f"S{number:02}/USDT:USDT" for number in range(60)]
    frame = bars(symbols, minutes=1440)
    written = lake.write_day(DAILY, DAY, frame)
    content = bytearray(lake.get(written.key))
    content[1000:60_000] = bytes(59_000)  # all in the first row group, which holds 50 symbols
    overwrite(lake, written.key, bytes(content))
    read = lake.read_day(DAILY, DAY, symbols=["S59/USDT:USDT", "ABSENT/USDT:USDT"])
    assert read.select(list(CAPTURED_SCHEMA)).equals(frame.filter(symbol="S59/USDT:USDT"))
    with pytest.raises(CorruptFile):
        lake.read_day(DAILY, DAY)


def test_pushdown_saves_the_network(s3_server: S3Server, s3_proxy: S3Proxy) -> None:
    """One symbol of a day on S3 costs a fraction of the day's bytes."""
    lake = Lake(s3_server.new_url())
    written = lake.write_day(DAILY, DAY, bars([f"S{number:03}/USDT:USDT" for number in range(200)], minutes=1440))
    before = s3_proxy.bytes_down
    assert lake.read_day(DAILY, DAY, symbols=["S199/USDT:USDT"]).height == 1440
    assert 100_000 < s3_proxy.bytes_down - before < written.bytes / 3


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (bars().clear(), "no bars"),
        (pl.concat([bars(), bars().head(1)]), "share their key"),
        (bars(start="2025-06-02"), "not futures bars of 2025-06-01"),
        (pl.concat([bars(), bars(["BTC/USDT"])]), "spot BTC/USDT"),
        (corrupted(bars(), 3, "high", 0.5), "high_is_highest"),
        (corrupted(bars(), 3, "close", float("nan")), "prices_positive"),
        (corrupted(bars(), 3, "end_download_timestamp", None), "end_download_timestamp"),
        (bars().drop("end_download_timestamp"), "end_download_timestamp"),
        (bars().drop("volume"), "columns missing"),
        (bars().with_columns(pl.col("close").cast(pl.Float32)), "another dtype"),
    ],
)
def test_nothing_wrong_is_stored(tmp_path: Path, broken: pl.DataFrame, says: str) -> None:
    """Bars that are none, doubled, broken, incomplete or of another day or market are refused before anything is written."""
    with pytest.raises(InvalidBars, match=says):
        Lake(str(tmp_path)).write_day(DAILY, DAY, broken)
    assert list(tmp_path.iterdir()) == []


def test_other_objects_come_back(lake: Lake, lake_url: str) -> None:
    """Reports are stored beside the bars, over a former one, and cannot touch a day's bars or leave the lake."""
    assert lake.put("qa/futures/report.html", b"old") == f"{lake_url}/qa/futures/report.html"
    lake.put("qa/futures/report.html", b"new")
    assert lake.get("qa/futures/report.html") == b"new"
    for key in ("../out", "a/../../out", "/etc/passwd", "a//b", "", ".lock", "a\\b", "a\nb", DAILY.key(DAY)):
        with pytest.raises(UsageError):
            lake.put(key, b"x")


@pytest.mark.parametrize("part", ["", "..", "a/b", "../..", "a.b", "é", " v7", "v7\n", ".hidden"])
def test_a_signature_cannot_lead_out_of_the_lake(part: str) -> None:
    """A part that means something in a path is refused."""
    with pytest.raises(UsageError, match="universe="):
        Signature("a", "b", "c", "parquet", "ohlcv", "spot", part, "ccxt", "binance")


def test_only_folders_and_buckets_are_lakes() -> None:
    """Another scheme is a setting that cannot be used."""
    with pytest.raises(BadSetting, match="gs://bars"):
        Lake("gs://bars/x")


@pytest.mark.real_data
def test_a_recorded_day_survives_bit_for_bit(lake: Lake, recorded_data: Path) -> None:
    """A real day of sixteen futures comes back with every bit of every value."""
    real = recorded(recorded_data / "klines" / "um_rest_1m_2025-05-25_2025-06-03_A.parquet", Market.FUTURES)
    start_ms = 1_748_736_000_000
    day = real.filter(pl.col("timestamp").is_between(start_ms, start_ms + 1440 * MINUTE_MS, closed="left"))
    assert lake.write_day(DAILY, DAY, day).rows == 23_040
    read = lake.read_day(DAILY, DAY)
    assert all((read[name].to_numpy() == day[name].to_numpy()).all() for name in EXCHANGE_SAYS)
    assert [read[name].to_numpy().tobytes() for name in VALUES] == [day[name].to_numpy().tobytes() for name in VALUES]


def overwrite(lake: Lake, key: str, content: bytes) -> None:
    """What no writer of the lake does: a disk or an operator changes a day's bytes."""
    lake._store.put(key, content)
