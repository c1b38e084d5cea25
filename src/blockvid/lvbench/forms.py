"""The forms that benchmarks come in: how entries are read from each, and what each can carry when they are written."""

from __future__ import annotations

import json
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from blockvid.errors import InputError
from blockvid.files import replacing
from blockvid.lvbench.entry import CLASSES, Entry
from blockvid.storyboard import MAX_SECONDS, Storyboard

MAX_BYTES = 100_000_000
SECONDS_PER_PROMPT = 10.0
"""Length of a prompt in a form that has no times: LongLive's interactive prompts change every ten seconds."""

Form = Literal["lvbench", "captions", "prompts", "text", "vbench", "storyeval"]

# Reading

_Located = Iterator[tuple[str, Entry]]  # "line 3" and the entry found there


def read(
    path: str | Path, form: Form | Literal["auto"] = "auto", seconds_per_prompt: float = SECONDS_PER_PROMPT
) -> tuple[Entry, ...]:
    """The entries in a file of any form, or in a folder of caption files; "auto" tells the form by ending and content.

    ``seconds_per_prompt`` is the length of a prompt, in seconds, in the forms that have no times. Raises InputError,
    one line that begins with the path and says where in the file.
    """
    path = Path(path)
    if not 0 < seconds_per_prompt <= MAX_SECONDS:
        raise InputError(f"{seconds_per_prompt:g} seconds per prompt is not above 0 and up to {MAX_SECONDS}; use 10")
    try:
        if path.is_dir():
            return _unique(_caption_files(path, form))
        text = _text(path)
        chosen = _form(path, text) if form == "auto" else form
        _check_form(chosen)
        return _unique(_READERS[chosen](text, _safe(path.stem), seconds_per_prompt))
    except InputError as error:
        raise InputError(" ".join(f"{path}: {error}".split())) from None


def _unique(located: _Located) -> tuple[Entry, ...]:
    entries: list[Entry] = []
    seen: dict[str, str] = {}
    for where, entry in located:
        name = entry.id.casefold()  # some file systems do not tell cases apart
        if name in seen:
            raise InputError(f"{where}: id {entry.id!r} is taken by {seen[name]}, whatever its case; rename one")
        seen[name] = where
        entries.append(entry)
    if not entries:
        raise InputError("holds no entries; write at least one")
    return tuple(entries)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"is larger than {MAX_BYTES // 1_000_000} MB, the limit of a benchmark file; split it")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror}); check the path and its permissions") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"line {line}: byte {content[error.start]:#04x} is not UTF-8; save as UTF-8 text") from None


def _form(path: Path, text: str) -> Form:
    ending = path.suffix.lower()
    if ending == ".txt":
        return "text"
    if ending == ".jsonl":
        first = next((_json(line, number) for number, line in _lines(text)), None)
        return "prompts" if _is_storyboard(first) else "lvbench"
    if ending != ".json":
        raise InputError(f"ending {ending!r} is no benchmark form; use .jsonl, .json or .txt, or name the form")
    try:
        document = _json(text)
    except InputError:
        return "captions"  # which may be pasted text that is not quite JSON
    if isinstance(document, list):
        return "vbench"
    return "captions" if _is_storyboard(document) else "storyeval"


def _is_storyboard(document: object) -> bool:
    return isinstance(document, dict) and any(key in document for key in ("captions", "prompts", "shots"))


def _lvbench(text: str, _stem: str, _seconds: float) -> _Located:
    for number, line in _lines(text):
        yield f"line {number}", _entry(_json(line, number), f"line {number}")


def _captions(text: str, stem: str, _seconds: float) -> _Located:
    yield "the file", Entry.of(Storyboard.parse(text, "json"), stem)


def _caption_files(folder: Path, form: str) -> _Located:
    if form not in ("captions", "auto"):
        raise InputError(f"is a folder, and form {form} is a file; name a file in it, or use form captions")
    for file in sorted(folder.glob("*.json")):
        try:
            yield file.name, Entry.of(Storyboard.parse(_text(file), "json"), _safe(file.stem))
        except InputError as error:
            raise InputError(f"{file.name}: {error}") from None


def _prompts(text: str, stem: str, seconds: float) -> _Located:
    for position, (number, line) in enumerate(_lines(text), 1):
        where, id = f"line {number}", f"{stem}_{position:04d}"
        document = _json(line, number)
        if isinstance(document, dict) and "prompts" in document:
            yield where, _timed(id, document["prompts"], seconds, {}, where)
            continue
        try:
            yield where, Entry.of(Storyboard.parse(line, "json"), id)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None


def _plain(text: str, stem: str, seconds: float) -> _Located:
    prompts = [(number, line) for number, line in _lines(text) if not line.lstrip().startswith("#")]
    for position, (number, line) in enumerate(prompts, 1):
        yield f"line {number}", _timed(f"{stem}_{position:04d}", [line], seconds, {}, f"line {number}")


def _vbench(text: str, stem: str, seconds: float) -> _Located:
    document = _json(text)
    if not isinstance(document, list):
        raise InputError(f"holds {reprlib.repr(document)}, not a list; write a list of prompt_en and dimension")
    for number, item in enumerate(document, 1):
        prompt = _key(item, "prompt_en", f"item {number}")
        rest = {"dimensions": item.get("dimension", [])}
        yield f"item {number}", _timed(f"{stem}_{number:04d}", [prompt], seconds, rest, f"item {number}")


def _storyeval(text: str, _stem: str, seconds: float) -> _Located:
    document = _json(text)
    if not isinstance(document, dict):
        raise InputError(f"holds {reprlib.repr(document)}, not keys; write file names with prompt and event_list")
    for name, item in document.items():
        where = f"key {reprlib.repr(name)}"
        classes = item.get("class", []) if isinstance(item, dict) else []
        known = [kind for kind in CLASSES if isinstance(classes, list) and kind in classes]
        rest = {"global_prompt": _key(item, "prompt", where), "class": known[0] if len(known) == 1 else None}
        events = _key(item, "event_list", where)
        yield where, _timed(_safe(name.removesuffix(".mp4")), events, seconds, rest, where)


_READERS: Mapping[str, Callable[[str, str, float], _Located]] = {
    "lvbench": _lvbench,
    "captions": _captions,
    "prompts": _prompts,
    "text": _plain,
    "vbench": _vbench,
    "storyeval": _storyeval,
}


def _check_form(form: str) -> None:
    if form not in _READERS:
        raise InputError(f"form {form!r} is unknown; use one of {', '.join(_READERS)}")


def _timed(id: str, captions: object, seconds: float, rest: Mapping[str, object], where: str) -> Entry:
    """An entry from captions without times."""
    if not isinstance(captions, list) or not captions:
        raise InputError(f"{where}: {reprlib.repr(captions)} is not a list of prompts; write at least one in brackets")
    cuts = [seconds * number for number in range(len(captions) + 1)]
    segments = [{"start": cuts[n], "end": cuts[n + 1], "caption": caption} for n, caption in enumerate(captions)]
    if cuts[-1] > MAX_SECONDS:
        raise InputError(f"{where}: {len(captions)} prompts of {seconds:g} s exceed {MAX_SECONDS} s; shorten or split")
    return _entry({"id": id, "duration": cuts[-1], "segments": segments, **rest}, where)


def _key(item: object, key: str, where: str) -> object:
    if not isinstance(item, dict) or key not in item:
        raise InputError(f"{where}: {reprlib.repr(item)} has no key {key!r}; add it, or name the form of the file")
    return item[key]


def _lines(text: str) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def _safe(stem: str) -> str:
    """The nearest id to a file's name."""
    return re.sub(r"[^A-Za-z0-9_.+=-]+", "_", stem)[:180].strip(".+=-") or "video"


def _json(text: str, line: int = 1) -> object:
    """The value in ``text``, which begins at ``line`` of its file."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        place = f"line {line + error.lineno - 1}, column {error.colno}"
        raise InputError(f"{place}: {reprlib.repr(text)} is not JSON ({error.msg}); correct it there") from None
    except (ValueError, RecursionError) as error:
        why = "is nested too deeply; flatten it" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"line {line}: {why}") from None


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise InputError(f"key {reprlib.repr(key)} stands twice in one object; keep one")
    return found


def _no_constant(name: str) -> float:
    raise InputError(f"{name} is not a JSON number; give a finite one")


def _entry(document: object, where: str) -> Entry:
    try:
        return Entry.parse(document)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


# Writing


def write(entries: Iterable[Entry], path: str | Path, form: Form = "lvbench") -> None:
    """Write ``entries`` in any form; docs/lvbench.md says what each can carry. Form captions writes a folder.

    Raises InputError where an entry does not fit the form, or the system refuses to write.
    """
    path = Path(path)
    _check_form(form)
    located = ((f"entry {number}", entry) for number, entry in enumerate(entries, 1))
    try:
        checked = _unique(located)
        if form == "captions":
            texts = {path / f"{entry.id}.json": _captions_text(entry) for entry in checked}
            _prepare(path, set(texts))
        else:
            texts = {path: _WRITERS[form](checked)}
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    for target, text in texts.items():
        with replacing(target) as part:
            part.write_text(text, encoding="utf-8")


def _prepare(folder: Path, ours: set[Path]) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be a folder ({error.strerror}); choose another") from None
    stranger = next((file for file in sorted(folder.glob("*.json")) if file not in ours), None)
    if stranger is not None:
        raise InputError(f"holds {stranger.name}, which would be read as one more entry; use an empty folder")


def _captions_text(entry: Entry) -> str:
    """The paper's form (A.7): both seconds of a stamp are included."""
    captions: list[str] = []
    due = 0.0
    for number, segment in enumerate(entry.segments, 1):
        span = f"{entry.id}: segment {number} [{segment.start:g} s, {segment.end:g} s)"
        if segment.start != due:
            raise InputError(f"{span} leaves a gap from {due:g} s, which captions cannot tell; use form lvbench")
        if not (segment.start.is_integer() and segment.end.is_integer()):
            raise InputError(f"{span} is not in whole seconds, as captions are; use form lvbench")
        due = segment.end
        stamp = f" ({int(segment.start):02d}s - {int(segment.end) - 1:02d}s)"
        sentence = segment.caption[-1] == "." and segment.caption[-2:-1].isalnum()
        captions.append(segment.caption[:-1] + stamp + "." if sentence else segment.caption + stamp)
    return _dumped({"captions": captions})


def _dumped(value: object, indent: int | None = 1) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent) + "\n"


def _lvbench_text(entries: Sequence[Entry]) -> str:
    return "".join(entry.model_dump_json(by_alias=True, exclude_defaults=True) + "\n" for entry in entries)


def _prompts_text(entries: Sequence[Entry]) -> str:
    return "".join(_dumped({"prompts": [s.caption for s in entry.segments]}, None) for entry in entries)


def _plain_text(entries: Sequence[Entry]) -> str:
    prompts = [_one_prompt(entry) for entry in entries]
    lost = next((prompt for prompt in prompts if prompt.startswith(("#", "\ufeff"))), None)
    if lost is not None:
        raise InputError(f"prompt {lost[:40]!r} begins with {lost[0]!r}, which text does not keep; use form lvbench")
    return "".join(prompt + "\n" for prompt in prompts)


def _vbench_text(entries: Sequence[Entry]) -> str:
    return _dumped([{"prompt_en": _one_prompt(entry), "dimension": list(entry.dimensions)} for entry in entries])


def _storyeval_text(entries: Sequence[Entry]) -> str:
    return _dumped(
        {
            f"{entry.id}.mp4": {
                "prompt": _one_prompt(entry),
                "event_list": [segment.caption for segment in entry.segments],
                "class": [] if entry.object_class is None else [entry.object_class],
            }
            for entry in entries
        }
    )


_WRITERS: Mapping[str, Callable[[Sequence[Entry]], str]] = {
    "lvbench": _lvbench_text,
    "prompts": _prompts_text,
    "text": _plain_text,
    "vbench": _vbench_text,
    "storyeval": _storyeval_text,
}


def _one_prompt(entry: Entry) -> str:
    if entry.prompt is None:
        raise InputError(f"{entry.id}: {len(entry.segments)} captions are not one prompt; give it a global_prompt")
    return entry.prompt
