"""Captions say what is shown, and say it in many ways."""

from __future__ import annotations

import re

import numpy as np
import pytest

from blockvid.errors import InputError
from blockvid.storybook.captions import CHANGES, TIMES, caption, captions, full_prompt
from blockvid.storybook.scenes import SCENES, scene_named
from blockvid.storybook.subjects import SUBJECTS, subject_named
from blockvid.storybook.takes import CHUNK_SECONDS, Segment, make_take, motion, sample_take

WAY = re.compile(r"(?:to|towards) the (left|right)(?! side)")


def test_the_direction_word_is_the_displacement() -> None:
    for seed in range(80):
        take = sample_take(seed, 24)
        x = motion(take, np.arange(len(take.segments) + 1) * CHUNK_SECONDS).x
        for chunk, sentence in enumerate(captions(take)):
            action = take.segments[chunk].action
            text = re.sub(r"the camera pans to the (left|right)", "", sentence, flags=re.IGNORECASE)
            said = WAY.findall(text)
            if action == "turn":
                facing = motion(take, np.array([(chunk + 1) * CHUNK_SECONDS - 0.05])).facing[0]
                assert all((word == "right") == (facing > 0) for word in said), sentence
            else:
                assert bool(said) == (take.segments[chunk].direction != "none"), sentence
                assert all((word == "right") == (x[chunk + 1] > x[chunk]) for word in said), sentence


def test_subject_scene_time_and_weather_are_true() -> None:
    for seed in range(80):
        take = sample_take(seed, 16)
        subject, scene = subject_named(take.subject), scene_named(take.scene)
        sentence = captions(take)[0].lower()
        assert any(noun.lower() in sentence for noun in (subject.noun, *subject.synonyms)), sentence
        assert any(noun in sentence for noun in (scene.noun, *scene.synonyms)), sentence
        ends = (take.time_of_day(0.2), take.time_of_day(3.8))
        words = CHANGES.get(ends, TIMES[take.time_of_day(2.0)])
        assert any(word in sentence for word in words), sentence
        if take.weather.kind == "clear" or take.weather.onset > CHUNK_SECONDS:
            assert not re.search(r"\b(rain|rainy|snowing|snowfall|falling snow|fog|foggy|mist)\b", sentence), sentence


def test_the_wording_varies_and_is_reproducible() -> None:
    take = make_take("meadow", "brown_horse", (Segment("walk", "left", 0.2, "follow"),) * 2, weather="rain")
    rng = np.random.default_rng(0)
    assert len({caption(take, 1, rng) for _ in range(400)}) > 150
    assert captions(take) == captions(take)
    brief = [caption(take, 1, rng).lower() for _ in range(1000)]
    without = [not ("horse" in text and ("meadow" in text or "field" in text)) for text in brief]
    assert 0.05 < np.mean(without) < 0.16


def test_every_sentence_is_well_formed() -> None:
    for seed in range(150):
        take = sample_take(seed, 16, "heldout" if seed % 3 == 0 else "train")
        for sentence in (*captions(take), *(full_prompt(take, k) for k in range(4))):
            assert re.fullmatch(r"[A-Z][^.]*\.", sentence), sentence
            assert "  " not in sentence and "{" not in sentence and " ," not in sentence
            assert not re.search(r"\b[Aa] (?!unicorn|ufo)[aeiou]", sentence), sentence


def test_the_plain_prompt_names_everything() -> None:
    for subject in SUBJECTS:
        scene = next(c for c in SCENES.values() if subject.medium in c.media)
        text = full_prompt(make_take(scene.key, subject.key, (Segment("walk", "left", 0.2),), time="dusk"), 0)
        assert subject.noun in text
        assert scene.noun in text and "to the left" in text and "at dusk" in text and "the camera follows" in text


def test_a_chunk_outside_the_take_is_refused() -> None:
    with pytest.raises(InputError, match="chunk 4"):
        full_prompt(sample_take(0, 16), 4)
