"""A roll-out of one step is what the pipeline makes of the same prompts and noise. Few steps: test_rollout.py."""

from __future__ import annotations

import pytest
import torch

from blockvid.attention.policies import KeyValuePolicy, Semantic, Window
from blockvid.attention.salience import Salience
from blockvid.batch import Batch
from blockvid.model.dit import TextContext
from blockvid.pipeline import Pipeline, Settings
from blockvid.sampling.solvers import Euler
from blockvid.training.rollout import Rollout

pytest_plugins = ["tiny_models"]

STORY = ("a fox runs", "a red ball rolls", "the green hill", "a fox sleeps")
POLICIES = [Window(1), Semantic(1, 1, Salience(tau=0.6, multiple=1))]


@torch.no_grad()
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_one_step_is_what_the_pipeline_makes(pipe: Pipeline, policy: KeyValuePolicy) -> None:
    settings = Settings(steps=1, guidance=1.0, shift=1.0, solver=Euler(), policy=policy)
    made = torch.cat([clip.latents for clip in pipe.stream(STORY, settings)], dim=2)
    take = pipe.take(STORY, settings)
    frames = tuple(chunk.frames for chunk in take.chunks)
    noise = torch.cat([take.begin(chunk).x for chunk in range(len(STORY))], dim=2)
    mine = slice(0, len(STORY))  # the negative prompt comes after
    text = TextContext(take.prompts.tokens[None, mine], frames, take.prompts.mask[None, mine])
    batch = Batch(torch.zeros_like(noise), frames, text, take.prompts.pooled[None, mine], torch.ones_like(noise[:, :1]))
    rollout = Rollout(timesteps=(999.999,), shift=1.0, policy=policy)  # the sampler's grid begins 1e-6 below 1
    rolled = rollout(pipe.models.dit, batch, (0,) * len(STORY), [noise], torch.Generator())
    assert made.std() > 0.3
    torch.testing.assert_close(rolled.latents, made, rtol=0, atol=1e-5)
