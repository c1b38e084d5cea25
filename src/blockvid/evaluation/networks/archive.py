"""Tensors out of torch's zip archives without running what they contain.

OpenAI's CLIP files are TorchScript archives, which `torch.load(weights_only=True)` refuses and `torch.jit.load` would
compile. In both kinds of archive `data.pkl` is a pickle of records and tensors, and `data/N` are their numbers.
A pickle can only act through the names that its reader resolves: here each name is a storage type, the builder of
tensors below, a dict, or an inert record that keeps what it is given. Nothing that the archive names is imported.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


DAMAGE = (UnpicklingError, ArithmeticError, AttributeError, EOFError, LookupError, RuntimeError, TypeError, ValueError)
"""What a pickle that torch did not write can end in."""


class Record:
    """An object of a class that nobody loads: its attributes, and nothing that it could do."""

    attributes: dict[str, Any]

    def __new__(cls, *_args: object) -> Record:
        """Whatever the pickle passes is dropped."""
        record = super().__new__(cls)
        record.attributes = {}
        return record

    def __init__(self, *_args: object) -> None:
        """As for `__new__`."""

    def __setstate__(self, state: object) -> None:
        """A module's submodules, parameters and buffers, by name."""
        self.attributes = dict(state) if isinstance(state, dict) else {}

    def __setitem__(self, key: object, value: object) -> None:
        """Items of classes derived from dict are dropped."""

    def append(self, value: object) -> None:
        """Items of classes derived from list are dropped."""

    def extend(self, values: object) -> None:
        """Items of classes derived from list are dropped."""


class Items(dict[Any, Any]):
    """A dict; whatever else a pickle wants to hang on it is dropped."""

    def __setstate__(self, state: object) -> None:
        """Versions of modules, usually."""


class ArchiveError(ValueError):
    """The archive is not what torch writes."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}data.pkl")))
        self._archive, self._root = archive, root
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> object:
        """What stands for a name in the pickle; never what the name means."""
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return Items
        return Record

    def persistent_load(self, pid: Any) -> Tensor:
        """The flat numbers of a storage: pid is ("storage", type, key, device, count)."""
        kind, dtype, key, _device, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise ArchiveError(f"an unknown storage {dtype}")
        if key not in self._storages:
            content = bytearray(self._archive.read(f"{self._root}data/{key}"))
            self._storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        if len(self._storages[key]) < count:
            raise ArchiveError(f"storage {key} is cut short")
        return self._storages[key]


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_rest: object) -> Tensor:
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if offset < 0 or min(stride, default=0) < 0 or (math.prod(size) and last >= len(storage)):
        raise ArchiveError("a tensor that reaches beyond its storage")
    return storage.as_strided(size, stride, offset)


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_archive(path: Path) -> dict[str, Any]:
    """What a zip archive of torch holds, by name: tensors of submodules under dotted names, dicts as dicts.

    Raises ArchiveError for anything else; zipfile.BadZipFile for numbers that were damaged.
    """
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise ArchiveError("no data.pkl")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise ArchiveError("numbers that are not little-endian")
        try:
            content = _Unpickler(archive, root).load()
        except DAMAGE as error:
            raise ArchiveError(str(error)) from None
    if isinstance(content, Record):
        return dict(_flattened("", content))
    if isinstance(content, dict):
        return content
    raise ArchiveError(f"a {type(content).__name__}")


def _flattened(prefix: str, record: Record) -> Iterator[tuple[str, Tensor]]:
    pending: list[tuple[str, Any]] = [(prefix, record)]
    seen: set[int] = set()
    while pending:  # a pickle may refer in circles
        name, value = pending.pop()
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, Record) and id(value) not in seen:
            seen.add(id(value))
            items: Mapping[str, Any] = value.attributes
            pending += [(f"{name}.{key}" if name else str(key), item) for key, item in items.items()]
