"""What training shows a chunk is what generation shows it: visibilities equal the cache, row by row.

float32; outputs are of order 1 and the observed differences are below 2e-6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from blockvid.attention.attend import BlockCausal, Full
from blockvid.attention.policies import Full as Everything
from blockvid.attention.policies import Policy, Recall, Semantic, SinkWindow, Window, recalls, similarity
from blockvid.attention.rope import grid_positions
from blockvid.flow import noised
from blockvid.model.dit import BlockDiT
from blockvid.training.densities import Independent
from blockvid.training.objectives import FlowMatching
from blockvid.training.objectives.visibility import (
    Bidirectional,
    Causal,
    Example,
    RandomlyRecalling,
    TeacherForcing,
    Visibility,
)
from tiny_models import transformer
from training.made_batches import EMPTY, FRAMES, batch, from_cache, model, oracle

POLICIES: list[Policy] = [Window(1), Window(2), Everything(), SinkWindow(1, 1), Semantic(1, 1), Semantic(2, 2)]
every_policy = pytest.mark.parametrize("policy", POLICIES, ids=str)
every_visibility = pytest.mark.parametrize(
    "visibility",
    [
        Causal(),
        Causal(Semantic(1, 1)),
        RandomlyRecalling(1),
        Bidirectional(),
        TeacherForcing(),
        TeacherForcing(noise=0.1),
    ],
    ids=repr,
)


@pytest.fixture(scope="module")
def network() -> BlockDiT:
    return model().requires_grad_(False)


def example(alone: Sequence[tuple[int, int]] = (), rows: int = 2) -> Example:
    """Independent levels; the chunks (row, chunk) of `alone` see nothing before them."""
    made = FlowMatching(Independent()).example(batch(rows=rows), EMPTY, torch.Generator().manual_seed(1))
    marked = torch.zeros_like(made.alone)
    for row, chunk in alone:
        marked[row, chunk] = True
    return replace(made, alone=marked)


def predicted(visibility: Visibility, network: BlockDiT, example: Example) -> Tensor:
    return visibility(network, example, torch.Generator().manual_seed(2))


def plans(policy: Policy, example: Example) -> list[list[Recall]]:
    """As `pipeline` makes them, for each row; nothing is recalled by a chunk that is alone."""
    every = [recalls(policy, similarity(pooled)) for pooled in example.pooled]
    return [
        [() if alone else recall for recall, alone in zip(plan, row, strict=True)]
        for plan, row in zip(every, example.alone.tolist(), strict=True)
    ]


def close(actual: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0.3
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@every_policy
@pytest.mark.parametrize("alone", [(), ((0, 2), (1, 3))], ids=["", "alone"])
def test_causal_is_the_cache(network: BlockDiT, policy: Policy, alone: Sequence[tuple[int, int]]) -> None:
    given = example(alone)
    close(predicted(Causal(policy), network, given), from_cache(network, given, plans(policy, given)))


@every_policy
@pytest.mark.parametrize("alone", [(), ((0, 2), (1, 3))], ids=["", "alone"])
def test_teacher_forcing_is_the_cache_of_clean_chunks(
    network: BlockDiT, policy: Policy, alone: Sequence[tuple[int, int]]
) -> None:
    """The noisy half: each noisy chunk after clean passes over those before it, as it is generated."""
    given = example(alone)
    from_memories = from_cache(network, given, plans(policy, given), clean=given.x0)
    close(predicted(TeacherForcing(policy), network, given), from_memories)


def test_teacher_forcing_shows_the_context_and_not_the_data(network: BlockDiT) -> None:
    given = replace(example(), context=batch(seed=7).latents)
    from_memories = from_cache(network, given, plans(Window(2), given), clean=given.context)
    close(predicted(TeacherForcing(), network, given), from_memories)
    assert (from_memories - predicted(TeacherForcing(), network, example())).abs().max() > 1e-2


def test_a_nearly_clean_half_has_the_levels_it_says() -> None:
    given = example(rows=1)
    knows = oracle(given.x0)
    predicted(TeacherForcing(noise=0.2), knows, given)
    (latents, timestep, text, _), total = knows.asked[0], sum(FRAMES)
    generator = torch.Generator().manual_seed(2)
    level = given.per_frame(0.2 * torch.rand(1, 5, generator=generator))
    torch.testing.assert_close(timestep, 1000 * torch.cat((level, given.per_frame(given.sigma)), 1))
    fresh = torch.randn(given.x0.shape, generator=generator)
    torch.testing.assert_close(latents[:, :, :total], noised(given.x0, fresh, level))
    assert torch.equal(latents[:, :, total:], given.noisy) and text.frames == FRAMES + FRAMES


def test_randomly_recalling_is_a_window_or_everything(network: BlockDiT) -> None:
    given = example()
    for older, policy in ((0.0, Window(1)), (1.0, Everything())):
        close(predicted(RandomlyRecalling(1, older), network, given), predicted(Causal(policy), network, given))


def test_randomly_recalling_sees_what_was_drawn(network: BlockDiT) -> None:
    given = example(alone=((1, 4),))
    drawn = (torch.rand(5, 5, generator=torch.Generator().manual_seed(2)) < 0.5).tolist()
    plan = [tuple((i, "all") for i in range(c) if i >= c - 1 or drawn[c][i]) for c in range(5)]
    assert sum(map(len, plan)) not in (4, 10)  # neither the window alone nor everything
    every = [plan, [*plan[:4], ()]]
    close(predicted(RandomlyRecalling(1, 0.5), network, given), from_cache(network, given, every))


def test_bidirectional_sees_everything_unless_cut(network: BlockDiT) -> None:
    given = example(alone=((0, 0),))
    positions, levels = grid_positions(sum(FRAMES), 2, 2), 1000 * given.per_frame(given.sigma)
    everything = predicted(Bidirectional(), network, given)
    assert torch.equal(everything, network(given.noisy, levels, given.text, Full(network.rope, positions)))
    cut = predicted(Bidirectional(), network, example(alone=((1, 2),)))
    torch.testing.assert_close(cut[0], everything[0], rtol=0, atol=1e-5)
    pieces = BlockCausal(network.rope, positions, (4 * 5, 4 * 5), 0)
    close(cut[1:], network(given.noisy, levels, given.text, pieces)[1:])


@every_visibility
def test_no_chunk_sees_a_later_one_unless_all_do(network: BlockDiT, visibility: Visibility) -> None:
    given = example()
    x0 = given.x0.clone()
    x0[:, :, 5:] += 1
    moved = predicted(visibility, network, replace(given, x0=x0, context=x0)) - predicted(visibility, network, given)
    reached = moved.abs().amax(dim=(0, 1, 3, 4)) > 1e-6
    assert reached.tolist() == [isinstance(visibility, Bidirectional)] * 5 + [True] * 5


@every_visibility
def test_tokens_need_not_be_square(visibility: Visibility) -> None:
    """Of 2 x 1 tokens a frame: a chunk alone is predicted as if it were given alone."""
    wide = transformer(BlockDiT, 8, in_channels=4, out_channels=4, patch_size=(1, 2, 4)).requires_grad_(False)
    given = example(alone=[(row, chunk) for row in range(2) for chunk in range(5)])
    positions = torch.tensor([(0, 0, 0), (0, 1, 0)])
    levels, text = 1000 * given.sigma[:, 4:], given.text.chunks(4, 5)
    alone = wide(given.noisy[:, :, -1:], levels, text, Full(wide.rope, positions))
    close(predicted(visibility, wide, given)[:, :, -1:], alone)


@every_visibility
def test_a_chunk_alone_reads_no_context(network: BlockDiT, visibility: Visibility) -> None:
    given = example(alone=((0, 3), (1, 3)))
    x0 = given.x0.clone()
    x0[:, :, :7] += 1
    moved = predicted(visibility, network, replace(given, x0=x0, context=x0)) - predicted(visibility, network, given)
    assert moved[:, :, 7:9].abs().max() == 0
    assert moved[:, :, :7].abs().max() > 1e-2


def test_rows_with_prompts_of_their_own_recall_their_own(network: BlockDiT) -> None:
    given = example()
    both = plans(Semantic(1, 1), given)
    assert both[0] != both[1]
    one = replace(given, pooled=given.pooled[:1].expand(2, -1, -1))
    moved = predicted(Causal(Semantic(1, 1)), network, one) - predicted(Causal(Semantic(1, 1)), network, given)
    assert moved[0].abs().max() < 1e-5 and moved[1].abs().max() > 1e-3
