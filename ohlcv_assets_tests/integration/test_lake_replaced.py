"""Promises of reads beside a writer that replaces the day: one content or the other, whole, and never an error of the reader's own."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from ohlcv_assets import OhlcvClient
from ohlcv_assets.bars import CAPTURED_SCHEMA
from ohlcv_assets.errors import CorruptFile, DayMissing
from ohlcv_assets.instruments import Market, load_universe
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.lake import Lake
from ohlcv_assets.storage.signature import Signature
from ohlcv_assets.storage.steady import steadily
from ohlcv_assets_tests.builders import SYMBOLS, bars
from ohlcv_assets_tests.integration.conftest import BTC, DAYS
from ohlcv_assets_tests.integration.test_lake import DAILY, DAY, EXCHANGE_SAYS, overwrite

#: Of different lengths: the footer of the one does not fit the rows of the other.
SHORT, LONG = bars(seed=1), bars(seed=2, minutes=1400)


def test_a_lazy_frame_reads_the_day_as_it_is_when_collected(lake: Lake) -> None:
    """One and the same lazy frame, collected before and after the day was replaced, gives the one content and then the other."""
    lake.write_day(DAILY, DAY, LONG)
    lazy = lake.scan(DAILY, [DAY]).filter(pl.col("symbol") == SYMBOLS[1]).select("timestamp", "close")
    for content in (LONG, SHORT, LONG):
        lake.write_day(DAILY, DAY, content, replace=True)
        expected = content.filter(pl.col("symbol") == SYMBOLS[1]).select("timestamp", "close")
        assert lazy.collect().equals(expected)
        assert lazy.head(3).collect().equals(expected.head(3))


def test_what_is_replaced_while_it_is_read_is_read_again_in_one_piece(lake: Lake) -> None:
    """A file that changed under the reader, with an error or without one, is fetched whole; one that did not change is not."""
    key, given = DAILY.key(DAY), []

    def read(
        source: str | io.BytesIO, options: object, error: Exception | None, content: pl.DataFrame
    ) -> pl.DataFrame:
        given.append(source)
        if len(given) == 1:
            lake.write_day(DAILY, DAY, content, replace=True)
            if error is not None:
                raise error
            return LONG
        return pl.read_parquet(source)

    errors = (None, pl.exceptions.ComputeError("Invalid thrift"), FileNotFoundError("gone"), OSError("short"))
    for number, error in enumerate(errors):
        given.clear()
        content = bars(seed=10 + number)
        lake.write_day(DAILY, DAY, LONG, replace=True)
        found = steadily(lake._store, key, lambda *of, e=error, c=content: read(*of, e, c))
        assert found.select(list(CAPTURED_SCHEMA)).equals(content)
        assert [type(source) for source in given] == [str, io.BytesIO]
    assert steadily(lake._store, key, lambda source, _: source) == lake.location(key)


def test_a_scan_names_a_damaged_file_and_not_a_mistaken_query(lake: Lake) -> None:
    """An error of the user's own filter stays what it is; a file that cannot be read is named, and a day that is gone too."""
    lake.write_day(DAILY, DAY, LONG)
    wrong = lake.scan(DAILY, [DAY]).filter(pl.col("symbol").str.to_date("%Y", strict=True).is_not_null())
    with pytest.raises(pl.exceptions.PolarsError):
        wrong.collect()
    lazy = lake.scan(DAILY, [DAY]).select("close")
    overwrite(lake, DAILY.key(DAY), lake.get(DAILY.key(DAY))[:-9])
    with pytest.raises(CorruptFile, match=r"bars\.parquet"):
        lazy.collect()


@contextmanager
def replacing(lake: Lake, signature: Signature) -> Iterator[None]:
    """A writer that puts one content in the place of the other again and again, until the block ends."""
    over, failed = threading.Event(), []

    def write() -> None:
        try:
            while not over.is_set():
                for content in (SHORT, LONG):
                    lake.write_day(signature, DAY, content, replace=True)
        except Exception as error:  # noqa: BLE001  told below
            failed.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        over.set()
        writer.join()
    assert not failed


def test_every_read_beside_a_writer_gives_one_content(place: Settings, tmp_path: Path) -> None:
    """Scans, reads, reads as of the past, some symbols and versions: each gives a content that was written, and the past its own."""
    own = place.model_copy(update={"lake": str(tmp_path)})
    lake = Lake(own.lake_url)
    signature = Signature.daily(Market.FUTURES, load_universe("v1.0", own.universes))
    lake.write_day(signature, DAY, SHORT)
    past = datetime.now(UTC)
    asked = {"start": DAYS[0], "end": DAYS[1], "market": "futures", "columns": [*EXCHANGE_SAYS]}
    contents = [content.select(EXCHANGE_SAYS) for content in (SHORT, LONG)]
    one_symbol = [content.filter(pl.col("symbol") == BTC) for content in contents]
    with OhlcvClient(own) as client, replacing(lake, signature):
        for _ in range(40):
            scanned = client.scan(None, **asked).collect().select(EXCHANGE_SAYS)
            assert any(scanned.equals(content) for content in contents)
            for read in (client.read(BTC, **asked), lake.read_day(signature, DAY, symbols=[BTC])):
                assert any(read.select(EXCHANGE_SAYS).equals(content) for content in one_symbol)
            assert client.read(BTC, **asked, as_of=past).select(EXCHANGE_SAYS).equals(one_symbol[0])
            assert client.versions("futures", DAY)["known_at"][0] < past


def test_a_day_that_is_gone_is_named(lake: Lake) -> None:
    """A file that is not there at all is a missing day."""
    with pytest.raises(DayMissing, match="date=2025-06-01"):
        lake.read_day(DAILY, DAY, symbols=[BTC])
