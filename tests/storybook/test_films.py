"""Films: what is cut from takes is told and shown as the takes are, and cuts name everything anew."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from blockvid.storybook.captions import captions
from blockvid.storybook.films import Film, sample_film
from blockvid.storybook.scenes import HELD_OUT, scene_named
from blockvid.storybook.subjects import subject_named
from blockvid.storybook.takes import sample_take
from blockvid.storybook.world import render

FILMS = [sample_film(seed, 20) for seed in range(300)]


def test_half_of_the_films_are_takes_and_half_of_the_others_come_back() -> None:
    cuts = Counter(sum(film.opens(chunk) for chunk in range(5)) for film in FILMS)
    assert set(cuts) == {1, 2, 3}
    assert cuts[1] == pytest.approx(150, abs=30) and cuts[3] == pytest.approx(60, abs=25)


def test_films_are_of_seen_pairs_and_go_on_where_they_were_left() -> None:
    same = 0
    for film in FILMS:
        assert len(film.told) == 5
        takes = {take.seed: take for take, _ in film.told}
        assert not {(take.subject, take.scene) for take in takes.values()} & HELD_OUT
        for seed in takes:
            of = [index for take, index in film.told if take.seed == seed]
            assert of == list(range(len(of)))
        if len(takes) == 2:
            assert len({take.scene for take in takes.values()}) == 2
            same += len({take.subject for take in takes.values()}) == 1
    assert same > 40


def test_a_film_of_one_take_is_told_as_the_take() -> None:
    take = sample_take(7, 20)
    assert Film(tuple((take, index) for index in range(5))).captions() == captions(take)
    assert sample_film(7, 4).told == ((sample_take(7, 4), 0),)


def test_a_cut_names_subject_and_scene() -> None:
    for film in FILMS:
        for chunk, sentence in enumerate(film.captions()):
            take, _ = film.told[chunk]
            scene, subject = scene_named(take.scene), subject_named(take.subject)
            if film.opens(chunk):
                assert any(noun in sentence.lower() for noun in (scene.noun, *scene.synonyms))
                assert any(noun in sentence.lower() for noun in (subject.noun, *subject.synonyms))


@pytest.mark.parametrize("late", [0, 1])
def test_a_film_shows_what_its_takes_show(sprites: Path, late: int) -> None:
    """With `late`, a frame more in the beginning, and so every chunk is a chunk of an autoencoder's latents."""
    take, other = sample_take(3, 12), sample_take(4, 12)
    film = Film(((take, 0), (other, 0), (other, 1), (take, 1)))
    frames, mask = film.render(40, 24, 2, late, sprites)
    assert len(frames) == len(mask) == 4 * 8 + late
    expected = [
        render(of, 40, 24, 2, start, stop, cache_dir=sprites).frames
        for of, start, stop in (
            (take, 0, 8 + late),
            (other, late, 16 + late),
            (take, 8 + late, 16 + late),
        )
    ]
    assert torch.equal(frames, torch.cat(expected)) and set(mask.unique().tolist()) <= {0, 1}
