"""The transformer by itself: its levels, its text, its beginning."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from blockvid.attention.attend import Full
from blockvid.attention.rope import grid_positions
from blockvid.model.dit import BlockDiT, TextContext, sinusoid


def tiny(**settings: bool) -> BlockDiT:
    torch.manual_seed(0)
    return BlockDiT(
        num_attention_heads=2,
        attention_head_dim=16,
        text_dim=24,
        freq_dim=32,
        ffn_dim=48,
        num_layers=2,
        **settings,
    ).eval()


def velocity(model: BlockDiT, timestep: Tensor, frames: tuple[int, ...] = (3,), rows: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    batch, f = timestep.shape
    latents = torch.randn(batch, 16, f, 4, 6, generator=generator)
    text = TextContext(torch.randn(batch, rows, 5, 24, generator=generator), frames)
    return model(latents, timestep, text, Full(model.rope, grid_positions(f, 2, 3)))


def test_a_fresh_model_predicts_zero() -> None:
    model = tiny()
    model.initialize(torch.Generator().manual_seed(0))
    assert torch.equal(velocity(model, torch.full((1, 3), 500.0)), torch.zeros(1, 16, 3, 4, 6))


def test_initialisation_is_a_function_of_its_generator() -> None:
    one, two = tiny(), tiny()
    for model in (one, two):
        torch.manual_seed(id(model))
        model.initialize(torch.Generator().manual_seed(7))
    for name, weight in one.state_dict().items():
        if "norm" not in name and "scale_shift_table" not in name and name != "patch_embedding.bias":
            assert torch.equal(weight, two.state_dict()[name]), name


@torch.no_grad()
def test_equal_levels_per_frame_are_one_level() -> None:
    """A row of equal levels gives each frame the same modulation, wherever it stands in the batch."""
    model = tiny()
    model.initialize(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.proj_out.weight)
    e, e0 = model.condition_embedder.time(torch.full((2, 3), 321.0), torch.float32)
    scalar_e, scalar_e0 = model.condition_embedder.time(torch.full((1, 1), 321.0), torch.float32)
    torch.testing.assert_close(e, scalar_e.expand(2, 3, -1), rtol=0, atol=1e-6)
    torch.testing.assert_close(e0, scalar_e0.expand(2, 3, -1, -1), rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_level_is_its_frames_own() -> None:
    model = tiny()
    flat, raised = torch.full((1, 3), 300.0), torch.tensor([[300.0, 300.0, 900.0]])
    e_flat, _ = model.condition_embedder.time(flat, torch.float32)
    e_raised, _ = model.condition_embedder.time(raised, torch.float32)
    changed = (e_flat - e_raised).abs().amax(dim=-1)[0] > 0
    assert changed.tolist() == [False, False, True]
    assert (velocity(model, flat) - velocity(model, raised)).abs().max() > 1e-3


@torch.no_grad()
def test_one_text_for_all_is_the_same_text_for_each() -> None:
    """Rows of text that are equal may be given once."""
    model = tiny()
    latents, timestep = torch.randn(2, 16, 4, 4, 6), torch.rand(2, 4) * 1000
    tokens = torch.randn(2, 1, 5, 24)
    attend = Full(model.rope, grid_positions(4, 2, 3))
    once = model(latents, timestep, TextContext(tokens, (4,)), attend)
    twice = model(latents, timestep, TextContext(tokens.expand(-1, 2, -1, -1), (3, 1)), attend)
    torch.testing.assert_close(once, twice, rtol=0, atol=1e-5)


def test_texts_are_cut_and_joined_with_their_masks() -> None:
    """Chunks cut apart join to what they were; rows, too. A mask is left where both have one."""
    mask = torch.tensor([[1, 3, 5], [5, 2, 4]])[..., None] > torch.arange(5)
    text = TextContext(torch.randn(2, 3, 5, 24), (3, 2, 2), mask)
    empty = TextContext(torch.randn(1, 1, 5, 24), (1,), mask[:1, :1])
    joined = text.chunks(0, 1).before(text.chunks(1, 3))
    assert joined.frames == text.frames and joined.mask is not None
    assert torch.equal(joined.tokens, text.tokens) and torch.equal(joined.mask, mask)
    none = text.without(torch.ones(2, 3, dtype=torch.bool), empty)
    both, spread = text.above(none), empty.spread(2, text.frames)
    assert both.mask is not None and spread.mask is not None and both.frames == spread.frames == text.frames
    assert torch.equal(both.tokens, torch.cat((text.tokens, spread.tokens)))
    assert torch.equal(both.mask, torch.cat((mask, spread.mask)))
    assert text.before(TextContext(text.tokens, text.frames)).mask is None


@torch.no_grad()
def test_a_full_mask_is_no_mask() -> None:
    model = tiny()
    latents, timestep, tokens = torch.randn(1, 16, 2, 4, 6), torch.rand(1, 2) * 1000, torch.randn(1, 1, 5, 24)
    attend = Full(model.rope, grid_positions(2, 2, 3))
    mask = torch.ones(1, 1, 5, dtype=torch.bool)
    torch.testing.assert_close(
        model(latents, timestep, TextContext(tokens, (2,), mask), attend),
        model(latents, timestep, TextContext(tokens, (2,)), attend),
        rtol=0,
        atol=1e-5,
    )


@torch.no_grad()
def test_the_frame_rate_is_seen_only_by_a_model_that_embeds_it() -> None:
    timestep = torch.full((2, 3), 500.0)
    deaf, seeing = tiny(), tiny(inject_sample_info=True)
    for parameter in seeing.fps_projection.parameters():
        torch.nn.init.normal_(parameter)
    made = []
    for model in (deaf, seeing):
        for index in (0, 1):
            model.fps_index = index
            made.append(velocity(copy.deepcopy(model), timestep))  # as a critic is made
    assert torch.equal(made[0], made[1])
    assert (made[2] - made[3]).abs().max() > 1e-3


def test_gradient_checkpointing_changes_no_gradient() -> None:
    grads = []
    for checkpointing in (False, True):
        model = tiny().train()
        model.requires_grad_(True)
        if checkpointing:
            model.enable_gradient_checkpointing()
        velocity(model, torch.full((1, 3), 500.0)).square().mean().backward()
        grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, grad in grads[0].items():
        other = grads[1][name]
        assert grad is not None and other is not None
        torch.testing.assert_close(other, grad, msg=name)


def test_the_sinusoid_is_cosines_then_sines() -> None:
    """At t = 0: ones, then zeros; the first frequency is 1 and the last near 1 / 10000."""
    assert sinusoid(torch.zeros(1), 6).tolist() == [[1, 1, 1, 0, 0, 0]]
    row = sinusoid(torch.tensor([2.0]), 256)[0]
    torch.testing.assert_close(row[[0, 128]], torch.tensor([math.cos(2), math.sin(2)]))
    torch.testing.assert_close(row[255], torch.tensor(2.0 * 10000 ** (-127 / 128)).sin())


@pytest.mark.parametrize(
    "settings", [{"image_dim": 1280}, {"added_kv_proj_dim": 64}, {"qk_norm": "rms_norm"}, {"patch_size": (2, 2, 2)}]
)
def test_other_architectures_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="only text-to-video Wan configurations"):
        BlockDiT(num_layers=1, **settings)  # type: ignore[arg-type]
