"""What a storyboard and its settings mean for the frames that come out."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from blockvid.attention.attend import Masked
from blockvid.attention.masks import block_causal, chunk_ids
from blockvid.attention.policies import Full, Window
from blockvid.attention.rope import grid_positions
from blockvid.errors import InputError
from blockvid.flow import ChunkSchedule
from blockvid.model.autoencoder import decode
from blockvid.model.device import pick_device
from blockvid.model.dit import TextContext
from blockvid.pipeline import Clip, Pipeline, Settings, State, picture_latent, to_uint8
from blockvid.sampling.noise import base_noise
from blockvid.sampling.sampler import Progress
from blockvid.sampling.seams import Dissolve
from blockvid.sampling.solvers import Euler, Renoise, Solver
from blockvid.storyboard import Storyboard
from blockvid.video import read_image

if TYPE_CHECKING:
    from blockvid.model.load import Models
    from blockvid.sampling.denoiser import GuidanceRule
    from tiny_models import Tiny

pytest_plugins = ["tiny_models"]

FOUR = ["a fox runs", "a red ball rolls", "the green hill", "a fox sleeps"]
FAST = Settings(steps=2)


def board(*prompts: str, **first: Any) -> Storyboard:
    """Shots of a second, which is a chunk; `first` are more keys of the first shot."""
    shots: list[dict[str, Any]] = [{"prompt": prompt, "seconds": 1.0} for prompt in prompts]
    shots[0] |= first
    return Storyboard.model_validate({"shots": shots})


def same(a: Clip, b: Clip) -> bool:
    return np.array_equal(a.frames, b.frames) and torch.equal(a.latents, b.latents)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "first.png"
    Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 30).convert("RGB").save(path)
    return path


def test_every_kind_of_model_makes_the_frames_of_the_storyboard(tiny: Tiny) -> None:
    storyboard = Storyboard.model_validate(
        {"shots": [{"prompt": "a fox runs", "seconds": 2.25}, {"prompt": "a fox sleeps", "seconds": 0.9}]}
    )
    pipe = tiny.pipeline()
    frames = pipe(storyboard, FAST)
    assert frames.shape == (25, 32, 32, 3) and frames.dtype == np.uint8  # 3.15 s at 8 fps
    clips = list(pipe.stream(storyboard, FAST))
    assert np.array_equal(np.concatenate([clip.frames for clip in clips]), frames)
    assert [clip.chunk.index for clip in clips] == list(range(len(clips)))
    whole = decode(pipe.models.autoencoder, torch.cat([clip.latents for clip in clips], dim=2))
    assert np.abs(to_uint8(whole)[:25].astype(int) - frames).max() <= 1


def test_prompts_alone_are_a_storyboard_of_native_chunks(pipe: Pipeline) -> None:
    assert np.array_equal(pipe(FOUR[:2], FAST), pipe(board(*FOUR[:2]), FAST))
    for wrong in ("a fox", [], ()):
        with pytest.raises(InputError, match="neither a Storyboard nor a list of prompts"):
            pipe.stream(wrong)


@pytest.mark.parametrize("policy", [Window(0), Window(1), Window(2), Full()], ids=repr)
def test_a_longer_video_begins_as_the_shorter_one(pipe: Pipeline, policy: Window | Full) -> None:
    settings = replace(FAST, policy=policy)
    long, short = list(pipe.stream(board(*FOUR), settings)), list(pipe.stream(board(*FOUR[:2]), settings))
    assert (len(long), len(short)) == (4, 2) and same(long[0], short[0])
    assert torch.equal(long[1].latents, short[1].latents)
    assert len(short[1].frames) == 7 and np.array_equal(long[1].frames[:7], short[1].frames)  # 16 of 17 are wanted


def test_policies_differ_from_the_first_chunk_that_one_cannot_see(pipe: Pipeline) -> None:
    def video(policy: Window | Full) -> list[Clip]:
        return list(pipe.stream(board(*FOUR), replace(FAST, policy=policy)))

    full, two, one = video(Full()), video(Window(2)), video(Window(1))
    assert [same(a, b) for a, b in zip(full, two, strict=True)] == [True, True, True, False]
    assert [same(a, b) for a, b in zip(full, one, strict=True)] == [True, True, False, False]
    assert all(same(a, b) for a, b in zip(full, video(Window(3)), strict=True))


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("policy", [Window(1), Full()], ids=repr)
@pytest.mark.parametrize("solver", [None, Renoise()], ids=repr)
def test_a_stream_goes_on_from_its_state(
    pipe: Pipeline, policy: Window | Full, guidance: float, solver: Solver | None
) -> None:
    settings = replace(FAST, policy=policy, guidance=guidance, solver=solver, steps=3)
    clips = list(pipe.stream(board(*FOUR), settings))
    for start in (1, 2, 3):
        memories = tuple(clip.memory for clip in clips[:start])
        rest = list(pipe.stream(board(*FOUR), settings, start, State(memories, clips[start - 1].decoder)))
        assert len(rest) == 4 - start and all(same(a, b) for a, b in zip(clips[start:], rest, strict=True))


def test_seeds(pipe: Pipeline) -> None:
    storyboard = board(*FOUR[:3])
    clips = list(pipe.stream(storyboard, FAST))
    assert all(same(a, b) for a, b in zip(clips, pipe.stream(storyboard, FAST), strict=True))
    assert not any(same(a, b) for a, b in zip(clips, pipe.stream(storyboard, replace(FAST, seed=1)), strict=True))
    shots = list(storyboard.shots)
    shots[1] = shots[1].model_copy(update={"seed": 7})
    changed = pipe.stream(storyboard.model_copy(update={"shots": tuple(shots)}), FAST)
    assert [same(a, b) for a, b in zip(clips, changed, strict=True)] == [True, False, False]


def test_guidance(pipe: Pipeline) -> None:
    """At 1 a single row runs; a shot's own guidance counts from its chunk on, and the whole video then has two."""
    plain = list(pipe.stream(board(*FOUR[:2]), replace(FAST, guidance=1.0)))
    guided = list(pipe.stream(board(*FOUR[:2]), replace(FAST, guidance=4.0)))
    assert (plain[0].memory.layers[0].keys.data.shape[0], guided[0].memory.layers[0].keys.data.shape[0]) == (1, 2)
    assert not same(plain[0], guided[0])
    mixed = list(pipe.stream(board(*FOUR[:2], guidance=4.0), replace(FAST, guidance=1.0)))
    assert same(mixed[0], guided[0]) and not same(mixed[1], guided[1])
    neutral = list(pipe.stream(board(*FOUR[:2], guidance=1.0), replace(FAST, guidance=4.0)))
    assert neutral[0].memory.layers[0].keys.data.shape[0] == 2
    torch.testing.assert_close(neutral[0].latents, plain[0].latents, rtol=1e-4, atol=1e-4)


def test_the_guidance_rule_is_the_callers_else_the_models(pipe: Pipeline) -> None:
    def made(models: Models, rule: GuidanceRule | None) -> Clip:
        return next(iter(Pipeline(models).stream(board("a fox runs"), replace(FAST, guidance=4.0, guidance_rule=rule))))

    theirs = replace(pipe.models, defaults=replace(pipe.models.defaults, guidance_rule="cfg-zero"))
    plain, zero = made(pipe.models, None), made(pipe.models, "cfg-zero")
    assert not same(plain, zero)
    assert same(made(theirs, None), zero) and same(made(theirs, "cfg"), plain)


def test_the_negative_prompt_is_the_callers_else_the_storyboards_else_the_models(pipe: Pipeline) -> None:
    plain = board("a fox runs")
    own = plain.model_copy(update={"negative_prompt": "a red ball"})

    def used(settings: Settings, storyboard: Storyboard) -> str | None:
        return settings.resolved(pipe.models, storyboard).negative_prompt

    assert (used(Settings(), plain), used(Settings(), own)) == ("blurry", "a red ball")
    assert used(Settings(negative_prompt="hill"), own) == "hill"
    assert used(Settings(negative_prompt=""), own) == ""
    first = next(pipe.stream(own, FAST))
    assert same(first, next(pipe.stream(plain, replace(FAST, negative_prompt="a red ball"))))
    assert not same(first, next(pipe.stream(plain, FAST)))


def test_the_video_starts_from_the_picture(tiny: Tiny, picture: Path) -> None:
    pipe = tiny.pipeline()
    vae = pipe.models.autoencoder
    expected = picture_latent(vae, read_image(picture, 32, 32), moving=False)
    by_setting = next(pipe.stream(board("a fox runs"), replace(FAST, image=picture)))
    assert torch.equal(by_setting.latents[:, :, :1], expected)
    assert np.array_equal(by_setting.frames[:1], to_uint8(decode(vae, expected)))
    plain = next(pipe.stream(board("a fox runs"), FAST))
    assert not torch.equal(by_setting.latents[:, :, 1:], plain.latents[:, :, 1:])
    of_video = board("a fox runs").model_copy(update={"image": picture})
    for storyboard in (of_video, board("a fox runs", image=str(picture))):
        assert same(by_setting, next(pipe.stream(storyboard, FAST)))


def test_an_anchor_picture_opens_its_shot_and_leaves_the_shots_before(pipe: Pipeline, picture: Path) -> None:
    storyboard = board(*FOUR[:3])
    shots = list(storyboard.shots)
    shots[1] = shots[1].model_copy(update={"image": picture})
    plain = list(pipe.stream(storyboard, FAST))
    anchored = list(pipe.stream(storyboard.model_copy(update={"shots": tuple(shots)}), FAST))
    assert [same(a, b) for a, b in zip(plain, anchored, strict=True)] == [True, False, False]
    latent = picture_latent(pipe.models.autoencoder, read_image(picture, 32, 32), moving=True)
    assert torch.equal(anchored[1].latents[:, :, :1], latent)


def test_every_step_is_told(pipe: Pipeline) -> None:
    told: list[Progress] = []
    list(pipe.stream(board(*FOUR[:2]), replace(FAST, steps=3), watch=told.append))
    assert [(event.chunks, event.updates, event.steps) for event in told] == [
        ((chunk,), (step,), 3) for chunk in (0, 1) for step in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"guidance": -1.0}, "guidance -1.0 is outside 0 to 100"),
        ({"guidance": float("nan")}, "guidance nan is outside"),
        ({"steps": 0}, "0 steps are outside 1 to 1000"),
        ({"steps": 5000}, "5000 steps are outside 1 to 1000"),
        ({"shift": 0.0}, "shift"),
        ({"context_noise": -0.1}, "context noise -0.1 is outside 0 to 1"),
        ({"context_noise": 1.0}, "context noise 1.0 is outside 0 to 1"),
        ({"overlap": -1}, "an overlap of -1 latent frames is below 0"),
        ({"overlap": 99}, "an overlap of 99 latent frames is outside 0 to"),
        ({"dissolve": -1.0}, "a dissolve of -1.0 is not a finite number"),
        ({"shift": float("inf")}, "shift"),
        ({"seed": -1}, "seed -1 is outside 0 to"),
        ({"seed": 2**63}, "is outside 0 to"),
        ({"image": Path("absent.png")}, "the picture absent.png does not exist"),
        ({"image": Path(__file__)}, "is not a picture that can be read"),
    ],
)
def test_settings_out_of_range_are_refused_before_any_work(pipe: Pipeline, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pipe.stream(board("a fox runs"), Settings(**wrong))


def test_a_shots_guidance_has_the_same_range(pipe: Pipeline) -> None:
    with pytest.raises(InputError, match=r"guidance 1000\.0 is outside 0 to 100"):
        pipe.stream(board("a fox runs", guidance=1000.0), FAST)


@pytest.mark.parametrize("device", ["tpu", "meta", "", "cuda:99"])
def test_devices_that_are_not_there_are_refused(device: str) -> None:
    with pytest.raises(InputError, match=f"device .?{device}"):
        pick_device(device)
    assert pick_device("cpu").type == "cpu"


def test_bfloat16_weights_make_a_video_too(storybook: Tiny) -> None:
    pipe = Pipeline.from_pretrained(storybook.folder, "cpu", torch.bfloat16)
    clips = list(pipe.stream(board(*FOUR[:2]), FAST))
    assert clips[0].memory.layers[0].keys.data.dtype == torch.bfloat16 and clips[0].latents.dtype == torch.float32
    assert json.loads((storybook.folder / "blockvid.json").read_text())["defaults"]["solver"] == "euler"


@pytest.mark.parametrize("overlap", [1, 2])
def test_an_overlap_is_the_clean_end_of_the_chunk_before_seen_once_more(pipe: Pipeline, overlap: int) -> None:
    """Against one masked forward a step: the first chunk, its last frames again, and the noisy second chunk."""
    settings, story = replace(FAST, overlap=overlap, guidance=1.0, solver=Euler()), board(*FOUR[:2])
    first, second = (clip.latents for clip in pipe.stream(story, settings))
    take, dit, g = pipe.take(story, settings), pipe.models.dit, pipe.models.geometry
    sides = g.latent_height // g.patch[1], g.latent_width // g.patch[2]
    sizes = (first.shape[2], overlap + second.shape[2])
    positions = torch.cat([grid_positions(sizes[0], *sides), grid_positions(sizes[1], *sides, sizes[0] - overlap)])
    ids = chunk_ids(tuple(size * g.tokens_per_frame for size in sizes))
    attend = Masked(dit.rope, positions, block_causal(ids))
    mask = take.prompts.mask[None, :2] if pipe.models.text_mask else None
    text = TextContext(take.prompts.tokens[None, :2], sizes, mask)
    x, again = base_noise(take.settings.seed, 1, second.shape), first[:, :, -overlap:]
    assert take.settings.shift is not None
    for sigma, sigma_next in pairwise(Euler().grid(2, take.settings.shift)):
        levels = torch.zeros(1, sum(sizes))
        levels[:, -x.shape[2] :] = sigma
        v = dit(torch.cat([first, again, x], dim=2), 1000 * levels, text, attend)[:, :, -x.shape[2] :]
        x = x + (sigma_next - sigma) * v
    torch.testing.assert_close(second, x, rtol=1e-4, atol=1e-4)


def test_an_overlap_is_not_shown_and_not_remembered(pipe: Pipeline) -> None:
    plain, over = (list(pipe.stream(board(*FOUR), replace(FAST, overlap=frames))) for frames in (0, 1))
    assert same(plain[0], over[0]) and not any(same(a, b) for a, b in zip(plain[1:], over[1:], strict=True))
    for a, b in zip(plain, over, strict=True):
        assert a.latents.shape == b.latents.shape and a.frames.shape == b.frames.shape
        assert a.memory.layers[0].keys.data.shape == b.memory.layers[0].keys.data.shape
    short = list(pipe.stream(board(*FOUR[:2]), replace(FAST, overlap=1)))
    assert torch.equal(short[1].latents, over[1].latents)
    with pytest.raises(ValueError, match="no latents"):
        next(iter(pipe.stream(board(*FOUR), replace(FAST, overlap=1), 1, State((plain[0].memory,), plain[0].decoder))))


def test_the_overlap_is_the_callers_else_the_models(pipe: Pipeline) -> None:
    theirs = Pipeline(replace(pipe.models, defaults=replace(pipe.models.defaults, overlap=1)))
    asked, default = (
        list(of.stream(board(*FOUR[:2]), settings))[1]
        for of, settings in ((pipe, replace(FAST, overlap=1)), (theirs, FAST))
    )
    assert same(asked, default)


def test_a_dissolve_changes_what_is_shown_and_nothing_that_is_made(pipe: Pipeline) -> None:
    plain, soft = (list(pipe.stream(board(*FOUR), replace(FAST, dissolve=tau))) for tau in (0.0, 2.0))
    assert same(plain[0], soft[0]) and not any(same(a, b) for a, b in zip(plain[1:], soft[1:], strict=True))
    for last, raw, shown in zip(soft, plain[1:], soft[1:], strict=False):
        assert torch.equal(shown.latents, Dissolve(2.0)(raw.latents, last.latents))
        assert torch.equal(shown.memory.layers[0].keys.data, raw.memory.layers[0].keys.data)
    with pytest.raises(ValueError, match="no latents"):
        next(iter(pipe.stream(board(*FOUR), replace(FAST, dissolve=2.0), 1, State((soft[0].memory,), soft[0].decoder))))


def test_the_dissolve_is_the_callers_else_the_models(pipe: Pipeline) -> None:
    theirs = Pipeline(replace(pipe.models, defaults=replace(pipe.models.defaults, dissolve=2.0)))
    asked, default, none = (
        list(of.stream(board(*FOUR[:2]), settings))[1]
        for of, settings in ((pipe, replace(FAST, dissolve=2.0)), (theirs, FAST), (theirs, replace(FAST, dissolve=0.0)))
    )
    assert same(asked, default) and not same(asked, none)


def test_a_chunk_that_begins_with_a_picture_is_not_dissolved_into(pipe: Pipeline, picture: Path) -> None:
    shots = [{"prompt": FOUR[0], "seconds": 1.0}, {"prompt": FOUR[1], "seconds": 1.0, "image": str(picture)}]
    story = Storyboard.model_validate({"shots": shots})
    plain, soft = (list(pipe.stream(story, replace(FAST, dissolve=tau))) for tau in (0.0, 2.0))
    assert same(plain[1], soft[1])


def test_an_overlap_beside_a_warm_start_and_a_picture(pipe: Pipeline, picture: Path) -> None:
    """The picture stays the chunk's first frame: what is known of the chunk before comes in front of it."""
    shots = [{"prompt": FOUR[0], "seconds": 1.0}, {"prompt": FOUR[1], "seconds": 1.0, "image": str(picture)}]
    story = Storyboard.model_validate({"shots": shots})
    settings = replace(FAST, overlap=1, schedule=ChunkSchedule("cosine"))
    g = pipe.models.geometry
    clean = picture_latent(pipe.models.autoencoder, read_image(picture, g.width, g.height), True)
    made = list(pipe.stream(story, settings))[1]
    assert torch.equal(made.latents[:, :, :1], clean) and made.latents.shape[2] == 2


def test_a_prompt_that_comes_again_is_kept_once(storybook: Tiny) -> None:
    take = storybook.pipeline().take(["a fox runs", "a fox sleeps"] * 8)
    assert len(take.prompts.tokens) == 3 and take.prompts.tokens.device.type == "cpu"  # and no prompt
    assert take.similarity.shape == (16, 16) and torch.equal(take.similarity[0], take.similarity[2])
