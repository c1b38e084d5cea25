"""Ours = diffusers: a folder that diffusers saved loads strictly, and gives the same velocities.

In float32 the velocities (standard deviation 0.9) may differ by 1e-5, all of it rounding.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, SkyReelsV2Transformer3DModel, WanTransformer3DModel
from torch import Tensor

from blockvid.attention.attend import BlockCausal, Full
from blockvid.attention.rope import grid_positions
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.model.load import load_models

TINY: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "text_dim": 24,
    "freq_dim": 32,
    "ffn_dim": 48,
    "num_layers": 3,
}
PIPELINES = {WanTransformer3DModel: "WanPipeline", SkyReelsV2Transformer3DModel: "SkyReelsV2DiffusionForcingPipeline"}


def saved(folder: Path, cls: type, **settings: Any) -> Any:
    """A tiny random diffusers model with every weight away from its initial zero or one, saved as its pipeline is."""
    torch.manual_seed(0)
    theirs = cls(**TINY | settings).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(folder / "transformer")
    AutoencoderKLWan(base_dim=8, num_res_blocks=1).save_pretrained(folder / "vae")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": PIPELINES[cls]}))
    return theirs


def inputs(frames: int, height: int, width: int, batch: int = 1, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Latents, a timestep per frame, text states; the last slots of the text are Wan's zero padding."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, 16, frames, height, width, generator=generator)
    timestep = 1000 * torch.rand(batch, frames, generator=generator)
    text = torch.randn(batch, 10, TINY["text_dim"], generator=generator)
    text[:, 7:] = 0
    return [latents.to(dtype), timestep, text.to(dtype)]


def forced(theirs: Any, latents: Tensor, timestep: Tensor, text: Tensor, fps: int) -> Tensor:
    """Row by row: with an embedded frame rate, diffusers 0.42.1 cannot add it to a batch of more than one row."""
    rows = zip(latents.split(1), timestep.split(1), text.split(1), strict=True)
    return torch.cat([theirs(*row, enable_diffusion_forcing=True, fps=[fps]).sample for row in rows])


def full(model: BlockDiT, frames: int, height: int, width: int) -> Full:
    return Full(model.rope, grid_positions(frames, height // 2, width // 2))


def context(text: Tensor, frames: int) -> TextContext:
    return TextContext(text[:, None], (frames,))


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 2, 2), (3, 4, 6), (5, 6, 2)], ids=str)
@pytest.mark.parametrize("batch", [1, 2])
def test_wan_velocity(tmp_path: Path, size: tuple[int, int, int], batch: int) -> None:
    theirs = saved(tmp_path, WanTransformer3DModel)
    ours = load_models(str(tmp_path)).dit
    latents, timestep, text = inputs(*size, batch=batch)
    expected = theirs(latents, timestep[:, 0], text).sample
    actual = ours(latents, timestep[:, :1].expand(-1, size[0]), context(text, size[0]), full(ours, *size))
    assert expected.std() > 0.1
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_wan_with_a_timestep_per_frame(tmp_path: Path) -> None:
    """diffusers takes it per token (as Wan 2.2 TI2V gives it)."""
    theirs = saved(tmp_path, WanTransformer3DModel)
    ours = load_models(str(tmp_path)).dit
    latents, timestep, text = inputs(3, 4, 6, batch=2)
    expected = theirs(latents, timestep.repeat_interleave(2 * 3, dim=1), text).sample
    actual = ours(latents, timestep, context(text, 3), full(ours, 3, 4, 6))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("fps", [0, 1])
@pytest.mark.parametrize("batch", [1, 2])
def test_skyreels_with_a_timestep_per_frame(tmp_path: Path, fps: int, batch: int) -> None:
    theirs = saved(tmp_path, SkyReelsV2Transformer3DModel, inject_sample_info=True)
    ours = load_models(str(tmp_path)).dit
    latents, timestep, text = inputs(5, 4, 6, batch=batch)
    expected = forced(theirs, latents, timestep, text, fps)
    ours.fps_index = fps
    actual = ours(latents, timestep, context(text, 5), full(ours, 5, 4, 6))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    ours.fps_index = 1 - fps
    other = ours(latents, timestep, context(text, 5), full(ours, 5, 4, 6))
    assert (actual - other).abs().max() > 1e-2, "the frame rate is seen"


@torch.no_grad()
def test_skyreels_with_one_timestep(tmp_path: Path) -> None:
    theirs = saved(tmp_path, SkyReelsV2Transformer3DModel)
    ours = load_models(str(tmp_path)).dit
    latents, timestep, text = inputs(4, 2, 6)
    expected = theirs(latents, timestep[:, 0], text).sample
    actual = ours(latents, timestep[:, :1].expand(-1, 4), context(text, 4), full(ours, 4, 2, 6))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_block_causal_is_skyreels_blocks_of_frames(tmp_path: Path) -> None:
    theirs = saved(tmp_path, SkyReelsV2Transformer3DModel, inject_sample_info=True, num_frame_per_block=2)
    ours = load_models(str(tmp_path)).dit
    latents, timestep, text = inputs(6, 4, 6, batch=2)
    expected = forced(theirs, latents, timestep, text, 1)
    attend = BlockCausal(ours.rope, grid_positions(6, 2, 3), (12, 12, 12))
    actual = ours(latents, timestep, context(text, 6), attend)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("cls", [WanTransformer3DModel, SkyReelsV2Transformer3DModel])
def test_bfloat16_keeps_what_diffusers_keeps_in_float32(tmp_path: Path, cls: type) -> None:
    saved(tmp_path, cls)
    theirs = cls.from_pretrained(tmp_path / "transformer", torch_dtype=torch.bfloat16)
    ours = load_models(str(tmp_path), dtype=torch.bfloat16).dit
    pretrained = BlockDiT.from_pretrained(tmp_path / "transformer", torch_dtype=torch.bfloat16)
    expected_types = {name: parameter.dtype for name, parameter in theirs.named_parameters()}
    assert set(expected_types.values()) == {torch.bfloat16, torch.float32}
    for model in (ours, pretrained):
        assert {name: parameter.dtype for name, parameter in model.named_parameters()} == expected_types
        for name, parameter in theirs.named_parameters():
            assert torch.equal(model.get_parameter(name), parameter), name
    latents, timestep, text = inputs(3, 4, 6, dtype=torch.bfloat16)
    exact = load_models(str(tmp_path)).dit(
        latents.float(), timestep[:, :1].expand(-1, 3), context(text.float(), 3), full(ours, 3, 4, 6)
    )
    expected = theirs(latents, timestep[:, 0], text).sample.float()
    actual = ours(latents, timestep[:, :1].expand(-1, 3), context(text, 3), full(ours, 3, 4, 6)).float()
    # Observed: 0.016 between them, 0.017 and 0.021 to float32, where the velocity's standard deviation is 0.9.
    torch.testing.assert_close(actual, expected, rtol=0, atol=0.05)
    assert (actual - exact).square().mean() < 1.5 * (expected - exact).square().mean(), "and no less exact than theirs"


@pytest.mark.parametrize(("frame_rate", "count"), [(False, 1_418_996_800), (True, 1_435_525_696)])
def test_parameters_of_the_checkpoints(frame_rate: bool, count: int) -> None:
    """Wan2.1-T2V-1.3B and SkyReels-V2-DF-1.3B; diffusers' class has the same names and shapes."""
    sizes: dict[str, Any] = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
    with torch.device("meta"):
        ours = BlockDiT(**sizes, inject_sample_info=frame_rate)
        theirs = SkyReelsV2Transformer3DModel(**sizes, inject_sample_info=frame_rate)
    assert sum(parameter.numel() for parameter in ours.parameters()) == count
    shapes = {name: weight.shape for name, weight in ours.state_dict().items()}
    assert shapes == {name: weight.shape for name, weight in theirs.state_dict().items()}


def test_lora_adapters_fit_on_diffusers_module_names(tmp_path: Path) -> None:
    from peft import LoraConfig

    saved(tmp_path, WanTransformer3DModel)
    model = load_models(str(tmp_path)).dit
    latents, timestep, text = inputs(2, 4, 4)

    def velocity() -> Tensor:
        return model(latents, timestep, context(text, 2), full(model, 2, 4, 4))

    plain = velocity()
    config = LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"])
    model.add_adapter(config)
    assert torch.equal(velocity(), plain), "a fresh adapter changes nothing"
    adapters = {name: p for name, p in model.named_parameters() if "lora_" in name}
    assert len(adapters) == 2 * TINY["num_layers"] * (2 * 4 + 2)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == set(adapters)
    for parameter in adapters.values():
        torch.nn.init.normal_(parameter, std=0.3)
    changed = velocity()
    assert (changed - plain).abs().max() > 1e-2
    changed.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in adapters.values())
    model.disable_adapters()
    torch.testing.assert_close(velocity(), plain)
