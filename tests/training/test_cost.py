"""What a run takes is counted as the network has it: operations by PyTorch's own counter, bytes by formula."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from blockvid.attention.attend import BlockCausal
from blockvid.attention.rope import grid_positions
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.training.cost import Cost, cost, memory
from blockvid.training.sharding import Mesh


def dit(**sizes: int) -> BlockDiT:
    config = {"num_attention_heads": 4, "attention_head_dim": 24, "text_dim": 8, "freq_dim": 16, "ffn_dim": 384}
    return BlockDiT(**{**config, "num_layers": 3, **sizes})


def test_operations_are_those_that_run() -> None:
    """Within the embeddings and the head, which are not counted: 3 % here, less at any real size."""
    model, chunks, n, words = dit(), (3, 2), 16, 7
    text = TextContext(torch.zeros(2, 2, words, 8), chunks)
    attend = BlockCausal(model.rope, grid_positions(5, 4, 4), tuple(k * n for k in chunks))
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(2, 16, 5, 8, 8), torch.zeros(2, 5), text, attend).sum().backward()
    made = cost(model, chunks, n, batch=2, seen=(3, 5), words=words)
    assert made.tokens == 2 * 5 * n
    assert made.operations == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_shards_divide_what_is_held_and_tokens_what_is_computed() -> None:
    with torch.device("meta"):
        networks = {"model": dit(), "teacher": dit().requires_grad_(False)}
    parameters = sum(p.numel() for p in networks["model"].parameters())
    alone = memory(networks, 1000, Mesh(dp_shard=1), "bfloat16")
    assert (alone.weights, alone.gradients, alone.optimisers, alone.average, alone.gathered) == (
        8 * parameters, 4 * parameters, 8 * parameters, 4 * parameters, 0,
    )  # fmt: skip
    split = memory(networks, 1000, Mesh(dp_replicate=2, dp_shard=2, sp=2), "bfloat16", recompute=("model",))
    assert split.weights == alone.weights / 4 and split.optimisers == alone.optimisers / 4
    assert split.activations < alone.activations / 4
    assert alone.total == pytest.approx(sum(float(x) for x in vars(alone).values()))


def test_rates() -> None:
    made = Cost(tokens=100, operations=1e9).rates(microbatches=4, seconds=2.0, ranks=2, device=torch.device("cpu"))
    assert made == {"tokens_per_second": 200.0}
