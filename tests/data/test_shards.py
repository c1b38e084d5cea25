"""Laws of shards: what was written is read, by us, by offset and by plain tar, or the damage is named."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load

from blockvid.data.dataset import Dataset, read_empty, write_empty
from blockvid.data.index import COLUMNS, Sample, end_mark, scan
from blockvid.data.shards import Shards, ShardWriter
from blockvid.errors import InputError
from blockvid.geometry import Geometry

VIDEOS = {"a": 3, "b.c": 1, "d": 2, "e" * 120: 4}


def samples(video: str, chunks: int) -> Iterator[Sample]:
    for chunk in range(chunks):
        chance = torch.Generator().manual_seed(100 * len(video) + chunk)
        frames = 2 + (chunk == 0)
        tensors = {
            "latents": torch.randn(4, frames, 2, 2, generator=chance).half(),
            "tokens": torch.randn(3 + chunk, 8, generator=chance),
            "pooled": torch.randn(8, generator=chance),
        }
        yield Sample(video, chunk, frames, tensors, {"prompt": "Fünf „Enten“"})


def dataset() -> Dataset:
    geometry = Geometry(width=16, height=16, fps=8, chunk_frames=2, latent_channels=4)
    return Dataset(
        model="tiny", autoencoder="0" * 64, geometry=geometry, latents="float16", text="minilm", text_slots=9,
        text_mask=True,
    )  # fmt: skip


def written(folder: Path, limit: int = 6000) -> Path:
    writer = ShardWriter(folder, limit)
    for video, chunks in VIDEOS.items():
        assert writer.write(video, samples(video, chunks)) == chunks
        writer.add(video)
    writer.close()
    (folder / "dataset.json").write_text(dataset().model_dump_json())
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "out")


def expected() -> list[Sample]:
    return [sample for video, chunks in VIDEOS.items() for sample in samples(video, chunks)]


def test_what_was_written_is_read(folder: Path):
    shards = Shards.open(folder)
    assert shards.dataset == dataset() and len(shards) == 10
    for row, sample in enumerate(expected()):
        read = shards.read(row)
        assert read.keys() == sample.tensors.keys()
        assert all(torch.equal(read[name], tensor) for name, tensor in sample.tensors.items())
    assert list((folder / "items").iterdir()) == []


def test_a_shard_is_as_large_as_allowed_and_no_video_is_divided(folder: Path):
    table = pq.read_table(folder / "index").to_pydict()
    assert list(table) == list(COLUMNS)
    homes = dict(zip(table["video_id"], table["shard"], strict=True))
    assert set(zip(table["video_id"], table["shard"], strict=True)) == set(homes.items()), "adjacent: in one shard"
    assert len(set(homes.values())) > 1
    for shard in (folder / "shards").iterdir():
        assert shard.stat().st_size <= 6000 + tarfile.RECORDSIZE or list(homes.values()).count(shard.name) == 1
        assert shard.stat().st_size % tarfile.RECORDSIZE == 0


def test_the_index_points_at_the_payload(folder: Path):
    for row, sample in zip(pq.read_table(folder / "index").to_pylist(), expected(), strict=True):
        payload = (folder / "shards" / row["shard"]).read_bytes()[row["offset"] : row["offset"] + row["size"]]
        assert zlib.crc32(payload) == row["crc"]
        assert torch.equal(load(payload)["latents"], sample.tensors["latents"])
        assert (row["video_id"], row["chunk"], row["frames"]) == (sample.video, sample.chunk, sample.frames)


def test_plain_tar_unpacks_it(folder: Path, tmp_path: Path):
    for shard in sorted((folder / "shards").iterdir()):
        subprocess.run(["tar", "-xf", shard, "-C", tmp_path], check=True, capture_output=True)
    names = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert names[:4] == ["a.00000.json", "a.00000.safetensors", "a.00001.json", "a.00001.safetensors"]
    assert "b_c.00000.json" in names and len(names) == 20
    assert json.loads((tmp_path / "b_c.00000.json").read_text())["video"] == "b.c"
    assert all(name.count(".") == 2 for name in names), "WebDataset cuts names at the first dot"


@given(size=st.integers(0, 100_000).map(lambda blocks: blocks * 512))
def test_an_end_mark_is_two_blocks_and_fills_the_record(size: int):
    mark = end_mark(size)
    assert 1024 <= len(mark) < 1024 + tarfile.RECORDSIZE and (size + len(mark)) % tarfile.RECORDSIZE == 0


def test_the_bytes_are_those_of_python_s_own_writer(folder: Path):
    shard = folder / "shards" / "00000.tar"
    again = io.BytesIO()
    with tarfile.open(shard) as old, tarfile.open(fileobj=again, mode="w", format=tarfile.GNU_FORMAT) as new:
        for member in old:
            new.addfile(member, old.extractfile(member))
    assert again.getvalue() == shard.read_bytes()


def test_an_index_that_is_lost_is_made_again(folder: Path):
    index = sorted((folder / "index").iterdir())
    before = [path.read_bytes() for path in index]
    for path in index:
        path.unlink()
    ShardWriter(folder)
    assert [path.read_bytes() for path in index] == before


def test_any_damaged_byte_of_a_chunk_is_found(folder: Path):
    shards = Shards.open(folder)
    path = shards.path(0)
    whole = path.read_bytes()
    offset, size = int(shards.index.offset[1]), int(shards.index.size[1])
    for at in range(offset, offset + size, 97):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(InputError, match=rf"00000.tar is damaged at byte {offset}, chunk 1 of a \(crc is not"):
            shards.read(1)
        shards.read(0)
    path.write_bytes(whole[: offset + size - 1])
    with pytest.raises(InputError, match="it ends too early"):
        shards.read(1)
    with pytest.raises(InputError, match=r"00000.tar is cut short; restore it"):
        Shards.open(folder)
    path.unlink()
    with pytest.raises(InputError, match="No such file"):
        shards.read(1)
    with pytest.raises(InputError, match=r"00000.tar is absent"):
        Shards.open(folder)


def test_a_folder_that_holds_no_shards_is_refused(tmp_path: Path, folder: Path):
    with pytest.raises(InputError, match="holds no training shards"):
        Shards.open(tmp_path)
    (folder / "index" / "00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"00000.parquet is not an index of shards"):
        Shards.open(folder)
    with pytest.raises(InputError, match=r"dataset.json is not a whole shard"):
        list(scan(folder / "dataset.json"))
    (folder / "dataset.json").write_text('{"format": 2}')
    with pytest.raises(InputError, match=r"dataset.json: format: .*encode again into a new folder"):
        Shards.open(folder)
    with pytest.raises(InputError, match=r"empty.safetensors cannot be read"):
        read_empty(folder)
    write_empty(folder, {"tokens": torch.ones(2, 8)})
    assert torch.equal(read_empty(folder)["tokens"], torch.ones(2, 8))


def test_a_video_that_fails_midway_leaves_nothing(tmp_path: Path):
    def failing() -> Iterator[Sample]:
        yield from samples("a", 1)
        raise InputError("damaged")

    writer = ShardWriter(tmp_path)
    with pytest.raises(InputError, match="damaged"):
        writer.write("a", failing())
    assert list((tmp_path / "items").iterdir()) == []


def test_windows_are_consecutive_chunks_of_one_video_by_kind(folder: Path):
    index = Shards.open(folder).index
    for chunks in (1, 2, 3, 4):
        found = index.windows(chunks)
        openings = (3, *[2] * (chunks - 1))
        later = (2,) * chunks
        assert set(found) <= {openings, later}
        for frames, rows in found.items():
            for row in rows:
                assert tuple(index.frames[row : row + chunks]) == frames
                assert (index.chunk[row] == 0) == (frames == openings)
                assert len(set(index.video[row : row + chunks])) == 1
        total = sum(max(0, length - chunks + 1) for length in VIDEOS.values())
        assert sum(len(rows) for rows in found.values()) == total
    with pytest.raises(InputError, match="no video has 5 chunks, the longest has 4; train on windows of 4"):
        index.windows(5)
