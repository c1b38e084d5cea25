"""What is remembered, in what form and where it stands: laws of whole videos, whatever the policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import pytest
import torch

from blockvid.attention.policies import (
    DynamicSparse,
    Full,
    KeyValuePolicy,
    Semantic,
    SinkWindow,
    Window,
    recalls,
    similarity,
)
from blockvid.attention.salience import Salience
from blockvid.attention.storage import Storage
from blockvid.errors import InputError
from blockvid.flow import ChunkSchedule
from blockvid.pipeline import Clip, Pipeline, Settings
from blockvid.sampling.noise import BoundaryNoise
from blockvid.sampling.sampler import Progress
from blockvid.storyboard import Storyboard

if TYPE_CHECKING:
    from tiny_models import Tiny

pytest_plugins = ["tiny_models"]

STORY = ("a fox runs", "a red ball rolls", "the green hill", "a fox sleeps")
THIN, ALL = Salience(tau=0.6, multiple=1), Salience(tau=1.0)
POLICIES = [Window(2), SinkWindow(1, 1), Full(), DynamicSparse(2, THIN), Semantic(1, 1, THIN)]
FAST = Settings(steps=2)
LONG = 128  # latent frames of a chunk, to come to the end of the rotary table in few of them

Make = Callable[..., list[Clip]]
every_policy = pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)


@pytest.fixture(scope="module")
def make(pipe: Pipeline) -> Make:
    """A video, made once for all tests that look at it."""
    return cache(lambda settings, prompts=STORY: list(pipe.stream(prompts, settings)))


def keeping(policy: KeyValuePolicy, **more: object) -> Settings:
    return replace(FAST, policy=policy, **more)  # type: ignore[arg-type]


def alike(a: list[Clip], b: list[Clip]) -> list[bool]:
    """Which chunks have the same latents to the bit."""
    return [torch.equal(x.latents, y.latents) for x, y in zip(a, b, strict=True)]


def distances(a: list[Clip], b: list[Clip]) -> list[float]:
    """How far the chunks of `a` are from those of `b`, as a share of their size."""
    pairs = zip(a, b, strict=True)
    return [float((x.latents - y.latents).norm() / y.latents.norm()) for x, y in pairs]


# Policies


@pytest.mark.parametrize(
    ("thinned", "dense"),
    [
        (DynamicSparse(1, ALL), Window(1)),
        (DynamicSparse(2, ALL), Window(2)),
        (Semantic(9, 1, ALL), Full()),
        (Semantic(0, 2, ALL), Window(2)),
        (SinkWindow(0, 2), Window(2)),
        (SinkWindow(9, 0), Full()),
    ],
    ids=str,
)
def test_keeping_every_token_is_dense(make: Make, thinned: KeyValuePolicy, dense: KeyValuePolicy) -> None:
    assert all(alike(make(keeping(thinned)), make(keeping(dense))))


def test_dropping_tokens_is_not(make: Make) -> None:
    found = alike(make(keeping(DynamicSparse(2, THIN))), make(keeping(Window(2))))
    assert found == [True, False, False, False]


def test_recalling_nothing_similar_is_the_thinned_window(make: Make) -> None:
    sparse = make(keeping(DynamicSparse(2, THIN)))
    assert all(alike(make(keeping(Semantic(0, 2, THIN))), sparse))
    assert not all(alike(make(keeping(Semantic(1, 2, THIN))), sparse))


@every_policy
def test_no_chunk_knows_a_later_prompt(make: Make, policy: KeyValuePolicy) -> None:
    changed = make(keeping(policy), (*STORY[:2], "a fox runs over the hill", STORY[3]))
    assert alike(make(keeping(policy)), changed) == [True, True, False, False]


@pytest.mark.parametrize("scale", [1e-3, 3.0, 1e3])
def test_the_scale_of_the_embeddings_does_not_reach_the_recall(pipe: Pipeline, scale: float) -> None:
    policy = Semantic(1, 1, THIN)
    take = pipe.take((*STORY, STORY[0], STORY[1]), keeping(policy))  # with ties
    pooled = take.prompts.pooled[[take.row[chunk.prompt] for chunk in take.chunks]]
    assert recalls(policy, similarity(pooled * scale)) == take.plan
    assert take.plan[3:] == tuple(((i, "similar"), (j, "recent")) for i, j in ((0, 2), (0, 3), (1, 4)))


@every_policy
def test_denoising_calls_leave_nothing_in_the_bank(pipe: Pipeline, policy: KeyValuePolicy) -> None:
    take = pipe.take(STORY, keeping(policy, steps=5))
    during: dict[int, set[tuple[int, ...]]] = {index: set() for index in range(len(STORY) + 1)}

    def held() -> tuple[int, ...]:
        return (take.cache.nbytes, *take.cache.memories)

    def watch(event: Progress) -> None:
        during[event.chunks[0]].add(held())

    for clip in take.clips(watch=watch):
        during[clip.chunk.index + 1].add(held())
    assert all(len(states) == 1 for states in during.values())
    assert during[0] == during[4] == {(0,)} and during[1] != during[0]


@pytest.mark.parametrize("policy", [Window(2), Full(), Semantic(1, 1, ALL)], ids=str)
def test_the_bank_does_not_depend_on_steps(make: Make, policy: KeyValuePolicy) -> None:
    few, many = (make(keeping(policy, steps=steps)) for steps in (1, 5))
    assert [clip.trace.bank_bytes for clip in few] == [clip.trace.bank_bytes for clip in many]
    assert few[1].trace.bank_bytes > 0 and few[3].trace.bank_bytes == 0  # the last one leaves nothing to recall


def test_a_new_prompt_is_all_the_text_that_a_chunk_reads(make: Make) -> None:
    new = "a fox runs over the hill"
    switched = (*STORY[:2], new, STORY[3])
    alone, throughout = make(keeping(Window(0)), switched), make(keeping(Window(0)), (new,) * 4)
    assert alike(make(keeping(Window(0))), alone) == [True, True, False, True]
    assert alike(throughout, alone) == [False, False, True, False]
    with_a_past = alike(make(keeping(Window(1)), switched), make(keeping(Window(1)), (new,) * 4))
    assert not any(with_a_past)  # whose words are in what is remembered, as they should


# Storage


@every_policy
@pytest.mark.parametrize("precision", ["native", "int8"])
def test_where_memories_wait_changes_nothing(make: Make, policy: KeyValuePolicy, precision: str) -> None:
    device, host = (make(keeping(policy, storage=Storage(place, precision))) for place in ("device", "host"))  # type: ignore[arg-type]
    assert all(alike(device, host))
    assert [clip.trace for clip in device] == [clip.trace for clip in host]


@every_policy
def test_eight_bits_are_close_and_smaller(make: Make, policy: KeyValuePolicy) -> None:
    native, packed = make(keeping(policy)), make(keeping(policy, storage=Storage(precision="int8")))
    first, *later = distances(packed, native)
    assert first == 0 and all(0 < distance < 1e-3 for distance in later), later  # at most 2.3e-4 over 4 seeds
    assert all(a.memory.nbytes < 0.5 * b.memory.nbytes for a, b in zip(packed, native, strict=True))


# Placement


def test_a_window_that_has_skipped_nothing_stands_where_it_was(make: Make) -> None:
    compact, absolute = make(keeping(Window(2))), make(keeping(Window(2), placement="absolute"))
    assert alike(compact, absolute)[:3] == [True] * 3
    assert max(distances(absolute, compact)) < 1e-4  # later on it is moved as a whole, and only differences matter


@pytest.mark.parametrize(
    ("policy", "placement"),
    [(Semantic(1, 1, ALL), "absolute"), (SinkWindow(1, 1), "absolute"), (Semantic(2, 1, ALL), "zero")],
    ids=str,
)
def test_elsewhere_recalled_chunks_look_different(make: Make, policy: KeyValuePolicy, placement: str) -> None:
    """The last chunk skips one, or recalls two that are both put at 0; before it there is no difference."""
    found = distances(make(keeping(policy, placement=placement)), make(keeping(policy)))
    assert found[:2] == [0, 0] and found[2] < 1e-4 and found[3] > 1e-3


def test_positions_past_the_rotary_table_are_refused_before_any_work(storybook: Tiny) -> None:
    pipe = Pipeline.from_pretrained(storybook.folder, "cpu", torch.float32, 32, 32, 8.0, LONG)
    shot = {"prompt": STORY[0], "seconds": 9 * pipe.models.geometry.chunk_seconds}
    story = Storyboard.model_validate({"shots": [shot]})
    for settings in (keeping(Window(1), placement="absolute"), keeping(Full())):
        with pytest.raises(
            InputError, match=r"chunk \d would stand at latent frame \d+ and the rotary table ends"
        ) as error:
            pipe.stream(story, settings)
        assert "\n" not in str(error.value)
    assert len(pipe.take(story, keeping(Window(1))).plan) == 9


# Noise


@pytest.mark.parametrize("shuffle", ["local", "joint", "freenoise"])
def test_no_shuffled_frames_is_no_shuffling(make: Make, shuffle: str) -> None:
    assert all(alike(make(replace(FAST, noise=BoundaryNoise("independent", shuffle, 0))), make(FAST)))  # type: ignore[arg-type]


def test_shuffled_frames_change_the_video(storybook: Tiny) -> None:
    pipe = Pipeline.from_pretrained(storybook.folder, "cpu", torch.float32, 32, 32, 8.0, 8)

    def video(window: int) -> list[Clip]:
        return list(pipe.stream(STORY[:2], replace(FAST, noise=BoundaryNoise("shared", "local", window))))

    plain, shuffled = video(0), video(4)
    assert alike(plain, video(0)) == [True, True]
    assert alike(plain, shuffled) == [False, False]  # the suffix of the first, and all of the second
    assert not any(alike(plain, list(pipe.stream(STORY[:2], FAST))))


def test_a_schedule_without_levels_is_none_and_the_others_begin_warm(make: Make) -> None:
    assert all(alike(make(replace(FAST, schedule=ChunkSchedule("naive"))), make(FAST)))
    warm = alike(make(replace(FAST, schedule=ChunkSchedule("cosine"))), make(FAST))
    assert warm == [True, False, False, False]


def test_context_noise_reaches_later_chunks_alone(make: Make) -> None:
    assert all(alike(make(replace(FAST, context_noise=0.0)), make(FAST)))
    little, much = (make(replace(FAST, context_noise=level)) for level in (0.01, 0.5))
    assert alike(little, make(FAST)) == alike(much, make(FAST)) == [True, False, False, False]
    assert distances(little, make(FAST))[1] < distances(much, make(FAST))[1]


# The trace


@every_policy
def test_the_trace_tells_what_was_recalled_and_kept(pipe: Pipeline, policy: KeyValuePolicy) -> None:
    take = pipe.take(STORY, keeping(policy))
    own = [chunk.frames * take.geometry.tokens_per_frame for chunk in take.chunks]
    dense = policy.salience is None
    for clip in take.clips():
        trace, index = clip.trace, clip.chunk.index
        assert (trace.chunk, trace.prompt, trace.tokens) == (index, STORY[index], own[index])
        assert tuple((past.chunk, past.why) for past in trace.recalled) == take.plan[index]
        assert list(trace.similarities) == take.similarity[index, :index].tolist()
        assert trace.bank_bytes == take.cache.nbytes
        assert trace.kept == clip.memory.kept and all(share == 1 if dense else share < 1 for share in trace.kept)
        for past in trace.recalled:
            assert past.similarity == trace.similarities[past.chunk]
            assert past.tokens == own[past.chunk] if dense else 0 < past.tokens < own[past.chunk]
        assert trace.seconds == (index and index + 1 / 8, min(4, index + 9 / 8))  # the first has a frame more
