"""The run folder that makes a generation crash-safe: what was decided, what is finished, and how to go on from there.

::

    clip.run/
      manifest.json                what determines the frames, and where and how long they were made
      journal.jsonl                one line per finished chunk, written last: a chunk without its line does not exist
      chunks/00007.safetensors     one folder per group of tensors ("chunks", "state", ...), one file per chunk
      segments/00007.mp4           the encoded chunk, which blockvid.video.GrowingVideo writes
      lock                         held while a process writes
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from blockvid.errors import InputError
from blockvid.files import RESUME, BusyError, locked, refused, replacing, sync

GROUP = re.compile(r"[a-z][a-z_]*")
NOT_GROUPS = ("segments",)
OURS = re.compile(r"\d{5}\.safetensors|\..*")  # in a group's folder; the dotted ones are half-written


class Determining(BaseModel):
    """Everything the frames are a function of: a run resumes only where all of it is the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    fingerprint: str
    storyboard: JsonValue
    geometry: dict[str, JsonValue]
    seed: int
    settings: dict[str, JsonValue]
    """The sampler's choices as resolved: steps, guidance, shift, solver, policy, ..."""
    image_sha256: str | None
    dtype: str
    device: str
    threads: int
    torch: str
    diffusers: str
    blockvid: str


class Informative(BaseModel):
    """What is good to know about a run, and may differ when it is resumed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    created: datetime
    processor: str
    python: str
    finished: datetime | None = None
    seconds: tuple[float, ...] = ()
    """Seconds per chunk, filled in when the run finishes."""

    @classmethod
    def here(cls) -> Informative:
        """This machine, now."""
        return cls(created=datetime.now(UTC), processor=_processor(), python=platform.python_version())


class Manifest(BaseModel):
    """manifest.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    determining: Determining
    informative: Informative


class _Finished(BaseModel):
    """The line of a finished chunk: the sha256 of each file, by group, and what else is to be known about it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int
    sha256: dict[str, str]
    seconds: float
    facts: JsonValue = None


class _Forgotten(BaseModel):
    """The line that says which files went on purpose: those of ``group`` of these chunks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: str
    chunks: tuple[int, ...]


class Journal:
    """A run folder open for writing, by one process at a time; also a context manager that lets go of it.

    One that ends in InputError before any video was written removes a folder that this process made, under its lock.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        lines: Sequence[_Finished | _Forgotten],
        lock: contextlib.ExitStack,
        new: bool = False,
    ) -> None:
        """Use ``create`` or ``resume``; ``new`` if this process made the folder."""
        self.folder, self.manifest, self._lock, self._new = folder, manifest, lock, new
        self._chunks = [line for line in lines if isinstance(line, _Finished)]
        self._gone = _forgotten(lines)

    @classmethod
    def create(cls, folder: Path, manifest: Manifest) -> Journal:
        """Begin a run in a new folder; InputError if it cannot be written or already holds a chunk of a run."""
        new = True
        try:
            folder.mkdir()
        except FileExistsError:
            new = False
        except OSError as error:
            raise refused(folder, error, RESUME) from error
        journal = cls(folder, manifest, (), _locked(folder), new)
        with _closed_on_error(journal):
            if _manifest_path(folder).exists():
                _check_empty(folder)
                _clear(folder)
            strangers = [entry.name for entry in folder.iterdir() if entry.name not in ("lock", ".manifest.json.part")]
            if strangers:
                raise InputError(f"{folder} is not a run folder, it holds {strangers[0]}; use another output name")
            _write_manifest(folder, manifest)
        return journal

    @classmethod
    def resume(cls, folder: Path, manifest: Manifest) -> Journal:
        """Continue a run after its last whole chunk; InputError if ``manifest`` would make other frames.

        Only the chunks up to the first damaged one count; the rest is removed, to be made again.
        """
        if not _manifest_path(folder).exists():
            raise InputError(f"{folder} holds no run to resume; leave out --resume to begin one")
        lock = _locked(folder)
        with _closed_on_error(lock):
            stored = _read_manifest(folder)
            _check_same(folder, stored.determining, manifest.determining)
            lines = _intact(folder, _lines(folder))
            _rewrite(folder / "journal.jsonl", b"".join(_encoded(line) for line in lines))
            journal = cls(folder, stored, lines, lock)
            if journal.finished < len(stored.informative.seconds):  # was finished, and then damaged
                journal._inform(finished=None, seconds=())
            journal._sweep()
        return journal

    @staticmethod
    def discard(folder: Path) -> None:
        """Remove a run for good (--overwrite); InputError if it is in use. Nothing happens where there is none."""
        if not _manifest_path(folder).exists():
            return
        with _locked(folder):
            _clear(folder)

    @property
    def finished(self) -> int:
        """How many chunks, from the first on, are whole."""
        return len(self._chunks)

    @property
    def seconds(self) -> tuple[float, ...]:
        """Seconds that each finished chunk took."""
        return tuple(chunk.seconds for chunk in self._chunks)

    @property
    def segments(self) -> Path:
        """The folder for the encoded chunks."""
        return self.folder / "segments"

    @property
    def facts(self) -> tuple[JsonValue, ...]:
        """What was committed as ``facts`` with each finished chunk."""
        return tuple(chunk.facts for chunk in self._chunks)

    def commit(
        self, index: int, files: Mapping[str, Mapping[str, Tensor]], seconds: float, facts: JsonValue = None
    ) -> None:
        """Make chunk ``index``, the next one, durable: each group's tensors become ``<group>/<index>.safetensors``.

        When this returns, the chunk survives a power cut; if it raises (InputError: the disk refused) or is killed,
        the chunk does not exist and can be committed again.
        """
        assert index == self.finished, f"chunk {index} is committed after {self.finished} chunks"
        for group in files:
            assert GROUP.fullmatch(group) and group not in NOT_GROUPS, group
        hashes = {group: self._write(self._path(group, index), tensors) for group, tensors in files.items()}
        line = _Finished(index=index, sha256=hashes, seconds=seconds, facts=facts)
        self._append(line)
        self._chunks.append(line)

    def load(self, index: int, group: str) -> dict[str, Tensor]:
        """The tensors of one group of a finished chunk, on the CPU; InputError if they were forgotten or are gone."""
        path = self._path(group, index)
        if not self.holds(index, group):
            raise InputError(f"{path} is needed to go on but was already removed; begin again with --overwrite")
        try:
            return safetensors.torch.load_file(path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path} cannot be read ({error}); run again with --resume to make it anew") from error

    def holds(self, index: int, group: str) -> bool:
        """Whether chunk ``index`` is finished and its ``group`` was written and not forgotten."""
        written = index < self.finished and group in self._chunks[index].sha256
        return written and index not in self._gone.get(group, ())

    def forget(self, group: str, chunks: Collection[int]) -> None:
        """Remove the files of ``group`` of these chunks, which resuming no longer needs; known ones are passed over."""
        fresh = sorted(set(chunks) - self._gone.get(group, frozenset()))
        if not fresh:
            return
        assert fresh[-1] < self.finished, f"chunk {fresh[-1]} of {self.finished} is not finished"
        self._append(_Forgotten(group=group, chunks=tuple(fresh)))  # first, or a kill would leave holes unexplained
        self._gone[group] = self._gone.get(group, frozenset()) | frozenset(fresh)
        for index in fresh:
            self._path(group, index).unlink(missing_ok=True)

    def finish(self) -> None:
        """Mark the run as finished, with its timings."""
        self._inform(finished=datetime.now(UTC), seconds=self.seconds)

    def close(self) -> None:
        """Let other processes have the run; called twice, it does nothing."""
        self._lock.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        if self._new and isinstance(value, InputError) and not made(self.folder):  # refused, and nothing to keep
            shutil.rmtree(self.folder, ignore_errors=True)
        self.close()

    def _inform(self, finished: datetime | None, seconds: tuple[float, ...]) -> None:
        informative = self.manifest.informative.model_copy(update={"finished": finished, "seconds": seconds})
        self.manifest = self.manifest.model_copy(update={"informative": informative})
        _write_manifest(self.folder, self.manifest)

    def _path(self, group: str, index: int) -> Path:
        return _group_path(self.folder, group, index)

    def _write(self, path: Path, tensors: Mapping[str, Tensor]) -> str:
        if not path.parent.is_dir():
            try:
                path.parent.mkdir()
                sync(self.folder)
            except OSError as error:
                raise refused(path.parent, error, RESUME) from error
        with replacing(path, RESUME) as part:
            _save(tensors, part)
            return _sha256(part)

    def _append(self, line: _Finished | _Forgotten) -> None:
        path = self.folder / "journal.jsonl"
        try:
            with path.open("ab", buffering=0) as file:
                size = file.tell()
                try:
                    rest = _encoded(line)
                    while rest:  # a nearly full disk takes a part first and refuses at the next call
                        rest = rest[file.write(rest) :]
                    os.fsync(file.fileno())
                except OSError:
                    os.truncate(path, size)  # no half line in front of the next one
                    raise
            if size == 0:
                sync(self.folder)
        except OSError as error:
            raise refused(path, error, RESUME) from error

    def _sweep(self) -> None:
        """Remove what no journal line speaks of: files of unfinished chunks, and those a kill left half-written."""
        for entry in self.folder.iterdir():
            if not entry.is_dir() or entry.name in NOT_GROUPS:
                continue
            live = {self._path(entry.name, index) for index in range(self.finished) if self.holds(index, entry.name)}
            for file in set(entry.iterdir()) - live:
                if OURS.fullmatch(file.name):
                    file.unlink()


def made(folder: Path) -> bool:
    """Whether the run in ``folder`` has come as far as writing video."""
    return any((folder / name).exists() for name in ("journal.jsonl", "segments/00000.mp4"))


def _manifest_path(folder: Path) -> Path:
    return folder / "manifest.json"


def _group_path(folder: Path, group: str, index: int) -> Path:
    return folder / group / f"{index:05d}.safetensors"


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    with replacing(_manifest_path(folder), RESUME) as part:
        part.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _read_manifest(folder: Path) -> Manifest:
    path = _manifest_path(folder)
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        what = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read ({what}); begin again with --overwrite") from error


def _check_empty(folder: Path) -> None:
    """InputError if a run has something to lose: a finished chunk."""
    chunks = sum(isinstance(line, _Finished) for line in _lines(folder))
    if chunks:
        state = "a finished" if _read_manifest(folder).informative.finished else "an unfinished"
        raise InputError(
            f"{folder} already holds {state} run of {chunks} {'chunk' if chunks == 1 else 'chunks'}; "
            "pass --resume to continue it, --overwrite to begin again, or another output name"
        )


def _clear(folder: Path) -> None:
    """Remove a run but its lock. The manifest goes last: a half-removed folder is still a run, of fewer chunks."""
    try:
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == "manifest.json"):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != "lock":
                entry.unlink()
    except OSError as error:
        raise refused(folder, error, RESUME) from error


def _check_same(folder: Path, stored: Determining, asked: Determining) -> None:
    """InputError for the first field, in the manifest's order, in which two runs differ."""
    old, new = dict(_leaves(stored.model_dump(mode="json"))), dict(_leaves(asked.model_dump(mode="json")))
    different = [name for name in old | new if name not in old or name not in new or old[name] != new[name]]
    if different:
        name = different[0]
        asked_value = json.dumps(new[name], ensure_ascii=False) if name in new else "absent"
        stored_value = json.dumps(old[name], ensure_ascii=False) if name in old else "absent"
        more = f" (and {len(different) - 1} more differ)" if len(different) > 1 else ""
        raise InputError(
            f"{name} is {asked_value} but {stored_value} in the run {folder}{more}; "
            f"resume with {stored_value}, or begin again with --overwrite"
        )


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """The scalars of a JSON value by dotted path; empty containers count as scalars."""
    if value and isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _encoded(line: _Finished | _Forgotten) -> bytes:
    return line.model_dump_json().encode() + b"\n"


def _lines(folder: Path) -> list[_Finished | _Forgotten]:
    """The journal up to the first line that is torn or out of order."""
    lines: list[_Finished | _Forgotten] = []
    path = folder / "journal.jsonl"
    chunks = 0
    for raw in path.read_bytes().split(b"\n")[:-1] if path.exists() else ():  # no newline, no line
        try:
            keys = json.loads(raw)
            line = (_Finished if "index" in keys else _Forgotten).model_validate(keys)
        except (ValueError, TypeError):
            break
        if isinstance(line, _Finished):
            if line.index != chunks:
                break
            chunks += 1
        lines.append(line)
    return lines


def _rewrite(path: Path, data: bytes) -> None:
    if path.exists() and path.read_bytes() == data:  # an untouched run can be opened on a full disk too
        return
    with replacing(path, RESUME) as part:
        part.write_bytes(data)


def _forgotten(lines: Sequence[_Finished | _Forgotten]) -> dict[str, frozenset[int]]:
    gone: dict[str, frozenset[int]] = {}
    for line in lines:
        if isinstance(line, _Forgotten):
            gone[line.group] = gone.get(line.group, frozenset()) | frozenset(line.chunks)
    return gone


def _intact(folder: Path, lines: Sequence[_Finished | _Forgotten]) -> list[_Finished | _Forgotten]:
    """The lines before the first chunk with a file that is missing or not what was written.

    What was forgotten of earlier chunks stays forgotten: the files are gone whatever happened since.
    """
    gone = _forgotten(lines)
    chunks = [line for line in lines if isinstance(line, _Finished)]
    whole = 0
    for line in chunks:
        kept = {group: digest for group, digest in line.sha256.items() if line.index not in gone.get(group, ())}
        paths = {_group_path(folder, group, line.index): digest for group, digest in kept.items()}
        if any(not path.is_file() or _sha256(path) != digest for path, digest in paths.items()):
            break
        whole += 1
    if whole == len(chunks):
        return list(lines)
    still = {group: tuple(sorted(index for index in indices if index < whole)) for group, indices in gone.items()}
    return [*chunks[:whole], *(_Forgotten(group=group, chunks=indices) for group, indices in still.items() if indices)]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file; views and tensors that share memory are written out, each on its own."""
    seen: set[int] = set()
    owned = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        storage = tensor.untyped_storage()
        if storage.nbytes() != tensor.nbytes or storage.data_ptr() in seen:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        seen.add(tensor.untyped_storage().data_ptr())
        owned[name] = tensor
    try:
        safetensors.torch.save_file(owned, path)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))  # the library hides the errno in its text
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def _locked(folder: Path) -> contextlib.ExitStack:
    """Take the folder's lock, which says what process has it, until the stack is closed."""
    path = folder / "lock"
    with contextlib.ExitStack() as held:
        try:
            descriptor = held.enter_context(locked(path, wait=False))
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BusyError as holder:
            raise InputError(
                f"{folder} is being written by process {holder}; wait for it or stop it, or use another output name"
            ) from holder
        except OSError as error:
            raise refused(path, error, RESUME) from error
        return held.pop_all()


@contextlib.contextmanager
def _closed_on_error(held: contextlib.AbstractContextManager[object]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        stack.push(held)
        yield
        stack.pop_all()


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
