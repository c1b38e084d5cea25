"""Training shards on disk: written so that a kill loses at most one video, read by offset without unpacking.

::

    OUT/
      dataset.json              what the numbers mean: model, geometry, text encoder
      empty.safetensors         the embedding of no prompt
      shards/00000.tar          <video>.<chunk>.json and .safetensors, all chunks of a video one after the other
      index/00000.parquet       where each chunk of that shard is; together they are the index
      items/clip.tar            videos that wait for their shard to be full; empty when all is done
      ledger.jsonl              what became of each video
      lock                      held while a process writes
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from blockvid.data.dataset import Dataset
from blockvid.data.index import Index, Sample, end_mark, members, scan, stem, write_index
from blockvid.errors import InputError
from blockvid.files import refused, replacing


class ShardWriter:
    """Collects videos in `items/` and moves them, in the order of their arrival, into shards.

    A shard that exists is whole, and so is an item. Which videos share a shard follows from their order and sizes
    alone: however often the work was interrupted, the bytes are the same.
    """

    def __init__(self, folder: Path, limit: int = 1_000_000_000) -> None:
        """Take up or begin a folder; `limit` is the size of a shard in bytes, exceeded only by a single longer video.

        Raises InputError if the folder cannot be written or holds a damaged shard.
        """
        self.folder, self.limit = folder, limit
        try:
            for name in ("items", "shards", "index"):
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refused(folder, error) from error
        for debris in folder.glob("*/.*.part"):
            debris.unlink()
        for shard in _sorted(folder / "shards", ".tar"):
            if not self._index(shard).exists():
                write_index(scan(shard), self._index(shard))
        self.stored = frozenset(Index.read(_sorted(folder / "index", ".parquet")).videos)
        """Videos that were in shards already."""
        for item in (folder / "items").glob("*.tar"):
            if item.stem in {stem(video) for video in self.stored}:
                item.unlink()
        self._waiting: list[Path] = []
        self._bytes = 0

    def write(self, video: str, samples: Iterable[Sample]) -> int:
        """Store all chunks of a video, durably, as they come, and return their number.

        Nothing is left of it if `samples` raises. Raises InputError if the disk refuses. Call `add` with it next.
        """
        count = 0
        with replacing(self._item(video)) as part, part.open("wb") as file:
            for sample in samples:
                file.write(members(sample))
                count += 1
        return count

    def add(self, video: str) -> None:
        """Give a written video its place after those before; the shard that this fills is closed."""
        item = self._item(video)
        if not item.exists():
            raise InputError(f"{item} is gone, and the ledger says it is written; encode again into a new folder")
        size = item.stat().st_size
        if self._waiting and self._bytes + size > self.limit:
            self.close()
        self._waiting.append(item)
        self._bytes += size

    def close(self) -> None:
        """Make a shard of the videos that wait."""
        if not self._waiting:
            return
        number = len(_sorted(self.folder / "shards", ".tar"))
        shard = self.folder / "shards" / f"{number:05d}.tar"
        with replacing(shard) as part, part.open("wb") as file:
            for item in self._waiting:
                with item.open("rb") as source:
                    while piece := source.read(1 << 24):
                        file.write(piece)
            file.write(end_mark(self._bytes))
        write_index(scan(shard), self._index(shard))
        for item in self._waiting:
            item.unlink()
        self._waiting, self._bytes = [], 0

    def _item(self, video: str) -> Path:
        return self.folder / "items" / f"{stem(video)}.tar"

    def _index(self, shard: Path) -> Path:
        return self.folder / "index" / f"{shard.stem}.parquet"


def _sorted(folder: Path, ending: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"*{ending}") if not path.name.startswith("."))


@dataclass(frozen=True)
class Shards:
    """A folder of finished shards, open for reading; nothing but the index is in memory. Can be sent to processes."""

    folder: Path
    dataset: Dataset
    index: Index

    @classmethod
    def open(cls, folder: str | Path) -> Shards:
        """Raises InputError if the folder holds no shards, or one that its index knows is absent or cut short."""
        folder = Path(folder)
        dataset = Dataset.read(folder)
        index = Index.read(_sorted(folder / "index", ".parquet"))
        shards = cls(folder, dataset, index)
        ends = (index.offset + index.size).tolist()
        for name, end in dict(zip(index.shard.tolist(), ends, strict=True)).items():  # the last row of each shard
            path = shards.path(name)
            if not path.exists() or path.stat().st_size < end:
                what = "cut short" if path.exists() else "absent"
                raise InputError(f"{path} is {what}; restore it, or encode again into a new folder")
        return shards

    def __len__(self) -> int:
        return len(self.index)

    def path(self, shard: int) -> Path:
        """The file of a shard."""
        return self.folder / "shards" / self.index.shards[shard]

    def read(self, row: int) -> dict[str, Tensor]:
        """The tensors of one chunk: latents (c f h w), tokens (l d) without padding, pooled (d).

        Raises InputError, with the shard's name, if the bytes are not those that were written.
        """
        index = self.index
        path, offset, size = self.path(int(index.shard[row])), int(index.offset[row]), int(index.size[row])
        try:
            payload = _pread(path, offset, size)
            if len(payload) == size and zlib.crc32(payload) == index.crc[row]:
                return load(payload)
            why = f"crc is not {int(index.crc[row]):08x}" if len(payload) == size else "it ends too early"
        except OSError as error:
            why = str(error.strerror)
        except SafetensorError as error:
            why = str(error)
        video = index.videos[index.video[row]]
        raise InputError(
            f"{path} is damaged at byte {offset}, chunk {int(index.chunk[row])} of {video} ({why}); restore it, or "
            "encode again into a new folder"
        )


def _pread(path: Path, offset: int, size: int) -> bytes:
    """Bytes at an offset, fewer only at the file's end; a file is opened anew, so processes share no position."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        payload = os.pread(descriptor, size, offset)
        while (
            payload
            and len(payload) < size
            and (more := os.pread(descriptor, size - len(payload), offset + len(payload)))
        ):
            payload += more
        return payload
    finally:
        os.close(descriptor)
