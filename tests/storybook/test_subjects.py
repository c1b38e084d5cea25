"""Laws of the cast."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from pathlib import Path

import pytest
import torch

from blockvid.errors import InputError
from blockvid.storybook.scenes import HELD_OUT, SCENES
from blockvid.storybook.subjects import SUBJECTS, load_sprite, subject_named, unpack_subjects


def test_keys_and_nouns_are_unique() -> None:
    assert 104 <= len(SUBJECTS) <= 120
    assert (
        len({s.key for s in SUBJECTS})
        == len({s.noun for s in SUBJECTS})
        == len({s.file for s in SUBJECTS})
        == len(SUBJECTS)
    )


def test_held_out_pairs_leave_every_subject_and_scene_in_training() -> None:
    pairs = {(s.key, c.key) for s in SUBJECTS for c in SCENES.values() if s.medium in c.media}
    training = pairs - HELD_OUT
    assert pairs >= HELD_OUT
    assert 0.05 < len(HELD_OUT) / len(pairs) < 0.11
    assert {subject for subject, _ in training} == {s.key for s in SUBJECTS}
    assert {scene for _, scene in training} == set(SCENES)


def _archive(path: Path, sprites: Path) -> str:
    with tarfile.open(path, "w:gz") as package:
        for subject in SUBJECTS:
            data = (sprites / f"{subject.file}.webp").read_bytes()
            info = tarfile.TarInfo(f"package/assets/{subject.file}.webp")
            info.size = len(data)
            package.addfile(info, io.BytesIO(data))
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def test_an_archive_unpacks_only_with_its_digest(tmp_path: Path, sprites: Path) -> None:
    archive = tmp_path / "package.tgz"
    integrity = _archive(archive, sprites)
    cache = unpack_subjects(archive, tmp_path / "good", integrity)
    assert {path.stem for path in cache.iterdir()} == {s.file for s in SUBJECTS}
    archive.write_bytes(archive.read_bytes()[:-1] + b"!")
    with pytest.raises(InputError, match="has digest"):
        unpack_subjects(archive, tmp_path / "bad", integrity)
    assert not (tmp_path / "bad").exists()


def test_sprites_are_premultiplied_and_cropped(sprites: Path) -> None:
    image = load_sprite("red_fox", sprites)
    assert image.shape[0] == 4
    assert bool((image[:3] <= image[3:] + 1e-6).all())
    alpha = image[3] > 0.05
    assert all(bool(edge.any()) for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]))
    assert image.dtype == torch.float32


def test_unknown_subject_and_missing_sprites_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unicorn_knight"):
        subject_named("unicorn_knight")
    with pytest.raises(InputError, match="fetch_subjects"):
        load_sprite("red_fox", tmp_path)
