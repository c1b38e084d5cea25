"""Where each chunk is: tar members and the rows of the Parquet index that point into them."""

from __future__ import annotations

import json
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int, UInt32
from pydantic import JsonValue
from safetensors.torch import save
from torch import Tensor

from blockvid.errors import InputError
from blockvid.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa

TENSORS, FACTS = "safetensors", "json"
RECORD = 20 * tarfile.BLOCKSIZE
COLUMNS = ("video_id", "chunk", "shard", "offset", "size", "crc", "frames")


@dataclass(frozen=True)
class Sample:
    """One chunk of a video, ready to be trained on."""

    video: str
    chunk: int
    frames: int
    """Latent frames."""
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, JsonValue]
    """What a person or another tool wants to know: the prompt, the seconds it covers, where it came from."""


@dataclass(frozen=True)
class Row:
    """A line of the index: the tensors of chunk `chunk` are `size` bytes from `offset` on of the file `shard`."""

    video_id: str
    chunk: int
    shard: str
    offset: int
    size: int
    crc: int
    frames: int


def stem(video: str) -> str:
    """The video's name in tar members, without the dots at which WebDataset cuts names."""
    return re.sub(r"[^A-Za-z0-9_+=-]+", "_", video)


def members(sample: Sample) -> bytes:
    """The two tar members of a sample, the same bytes on every machine and at any time."""
    name = f"{stem(sample.video)}.{sample.chunk:05d}"
    facts = {"video": sample.video, "chunk": sample.chunk, "frames": sample.frames, **sample.facts}
    described = json.dumps(facts, ensure_ascii=False, indent=1) + "\n"
    tensors = {key: value.contiguous() for key, value in sorted(sample.tensors.items())}
    return _member(f"{name}.{FACTS}", described.encode()) + _member(f"{name}.{TENSORS}", save(tensors))


def _member(name: str, payload: bytes) -> bytes:
    header = tarfile.TarInfo(name)
    header.size = len(payload)
    return header.tobuf(tarfile.GNU_FORMAT) + payload + b"\0" * (-len(payload) % tarfile.BLOCKSIZE)


def end_mark(size: int) -> bytes:
    """What ends an archive whose members take `size` bytes: two empty blocks, filled up to a record as tar does."""
    marks = 2 * tarfile.BLOCKSIZE
    return b"\0" * (marks + -(size + marks) % RECORD)


def scan(path: Path) -> Iterator[Row]:
    """The rows of a shard, found by reading all of it. Raises InputError, with its name, where it is not one."""
    try:
        with tarfile.open(path, "r:") as archive, path.open("rb") as file:
            facts: dict[str, JsonValue] = {}
            for member in archive:
                file.seek(member.offset_data)
                payload = file.read(member.size)
                if member.name.endswith(f".{FACTS}"):
                    facts = json.loads(payload)
                    continue
                video, chunk, frames = str(facts["video"]), int(str(facts["chunk"])), int(str(facts["frames"]))
                yield Row(video, chunk, path.name, member.offset_data, member.size, zlib.crc32(payload), frames)
    except (tarfile.TarError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a whole shard ({error}); encode its videos again") from error


def _pyarrow() -> tuple[type[pa.Table], pa.Schema]:
    """Raises InputError where pyarrow is not installed."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise InputError("pyarrow is not installed; run `pip install 'blockvid[data]'`") from error
    types = (pa.string(), pa.int32(), pa.string(), pa.int64(), pa.int64(), pa.uint32(), pa.int32())
    return pa.Table, pa.schema([pa.field(n, t, nullable=False) for n, t in zip(COLUMNS, types, strict=True)])


def write_index(rows: Iterable[Row], path: Path) -> None:
    """Write rows as Parquet; `path` appears whole or not at all. Raises InputError without pyarrow or disk space."""
    table, schema = _pyarrow()
    import pyarrow.parquet as pq

    rows = list(rows)
    with replacing(path) as part:
        pq.write_table(table.from_pylist([vars(row) for row in rows], schema=schema), part)


@dataclass(frozen=True)
class Index:
    """The rows of all shards of a data set, as columns; videos and shards are numbers into the two lists of names."""

    videos: Sequence[str]
    shards: Sequence[str]
    video: Int[np.ndarray, " n"]
    chunk: Int[np.ndarray, " n"]
    shard: Int[np.ndarray, " n"]
    offset: Int[np.ndarray, " n"]
    size: Int[np.ndarray, " n"]
    crc: UInt32[np.ndarray, " n"]
    frames: Int[np.ndarray, " n"]

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Index:
        """The rows of Parquet files, in the order of the files. Raises InputError, with its name, for a damaged one."""
        _, schema = _pyarrow()
        import pyarrow as pa
        import pyarrow.parquet as pq

        tables = []
        for path in paths:
            try:
                tables.append(pq.ParquetFile(path).read(columns=list(COLUMNS)).select(COLUMNS).cast(schema))
            except (pa.ArrowException, OSError, ValueError) as error:
                why = " ".join(str(error).split())[:200]
                raise InputError(f"{path} is not an index of shards ({why}); remove it and encode again") from error
        table = pa.concat_tables(tables) if tables else schema.empty_table()
        table = table.combine_chunks()
        named = {name: table[name].combine_chunks().dictionary_encode() for name in ("video_id", "shard")}
        numbers = {name: table[name].to_numpy() for name in COLUMNS if name not in named}
        return cls(
            videos=named["video_id"].dictionary.to_pylist(),
            shards=named["shard"].dictionary.to_pylist(),
            video=named["video_id"].indices.to_numpy(),
            shard=named["shard"].indices.to_numpy(),
            **numbers,
        )

    def __len__(self) -> int:
        return len(self.chunk)

    def windows(self, chunks: int) -> dict[tuple[int, ...], Int[np.ndarray, " _"]]:
        """First rows of all `chunks` consecutive chunks of one video, by the latent frames of those chunks.

        A window that opens a video carries the image latent, so its first chunk is longer: it is of another kind than
        those that do not. Raises InputError if no video is long enough.
        """
        count = len(self) - chunks + 1
        first, last = slice(0, max(count, 0)), slice(chunks - 1, None)
        whole = (self.video[first] == self.video[last]) & (self.chunk[last] - self.chunk[first] == chunks - 1)
        starts = np.flatnonzero(whole)
        if not len(starts):
            longest = int(self.chunk.max()) + 1 if len(self) else 0
            raise InputError(
                f"no video has {chunks} chunks, the longest has {longest}; train on windows of {max(longest, 1)} or "
                "encode longer videos"
            )
        frames = np.lib.stride_tricks.sliding_window_view(self.frames, chunks)[starts]
        kinds, kind = np.unique(frames, axis=0, return_inverse=True)
        return {tuple(map(int, row)): starts[kind.reshape(-1) == n] for n, row in enumerate(kinds)}
