"""The recipes of the embedded model: what a step reads, and that a run writes a model that goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from blockvid.geometry import Geometry
from blockvid.model.dit import BlockDiT
from blockvid.model.storybook_vae import StorybookVAE
from blockvid.recipes.storybook import BaseRun
from blockvid.storybook.corpus import Shards
from blockvid.training.loop import Plan

GEOMETRY = Geometry(width=16, height=16, fps=8, chunk_frames=8)
RUN = BaseRun(
    Plan(2), geometry=GEOMETRY, shards=1, batch=0, stills=4, chunks=2, heads=1, head_dim=32, layers=1, workers=1
)
MOMENTS = 41


def takes(count: int = 3) -> dict[str, torch.Tensor]:
    """Latents that say which take and moment they are of, prompts that say which take and chunk, of five words."""
    take, moment = torch.arange(count).half(), torch.arange(MOMENTS).half()
    chunk = torch.arange(5).half()
    said = take[:, None] * 100 + chunk
    return {
        "latents": (take[:, None] * 100 + moment)[:, None, :, None, None].expand(-1, 16, -1, 2, 2).contiguous(),
        "coverage": torch.zeros(count, MOMENTS, 2, 2).half(),
        "tokens": said[..., None, None].expand(-1, -1, 48, 384).contiguous(),
        "mask": (torch.arange(48) < 5).expand(count, 5, -1).contiguous(),
    }


@pytest.mark.parametrize("stills", [1, 3, 8])
def test_a_still_is_a_moment_of_a_take_with_the_prompt_of_its_chunk(stills: int) -> None:
    run, data = replace(RUN, stills=stills), Shards(takes())
    drawn = set()
    for step in range(40):
        batch = run.stills_at(data, step, torch.Generator().manual_seed(step))
        assert batch.latents.shape == (stills, 16, 1, 2, 2) and batch.text.tokens.shape == (stills, 1, 5, 384)
        which = batch.latents[:, 0, 0, 0, 0].long()
        take, moment = which // 100, which % 100
        assert torch.equal(batch.text.tokens[:, 0, 0, 0].long(), take * 100 + (moment - 1).clamp(min=0) // 8)
        assert len(take.unique()) == min(stills, 3)
        drawn |= set(moment.tolist())
    assert {0, MOMENTS - 1} < drawn or stills == 1


@pytest.mark.parametrize(("batch", "stills"), [(0, 4), (2, 0), (2, 4)])
def test_a_run_writes_a_transformer_from_which_the_next_one_begins(batch: int, stills: int, tmp_path: Path) -> None:
    (tmp_path / "takes").mkdir()
    shard = {**takes(), "latents": torch.randn(3, 16, MOMENTS, 2, 2).half()}
    save_file(shard, tmp_path / "takes" / "00000.safetensors")
    StorybookVAE(width=32, latent_width=32).save_pretrained(tmp_path / "vae")
    run = replace(RUN, batch=batch, stills=stills, plan=replace(RUN.plan, ema=0.0))
    run(tmp_path)
    first = BlockDiT.from_pretrained(tmp_path / "transformer").state_dict()
    asked: list[int] = []
    replace(run, name="second", plan=replace(run.plan, steps=1))(tmp_path, lambda: not asked.append(1))
    again = BlockDiT.from_pretrained(tmp_path / "transformer").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())
