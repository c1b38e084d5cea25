"""Vision transformers against transformers' with equal random weights; DINO's positions against their formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, ViTConfig, ViTModel

from blockvid.evaluation.networks.checkpoints import load_clip, load_dino
from blockvid.evaluation.networks.vit import (
    CLIP_B32_DIM,
    CLIP_L14,
    CLIP_L14_DIM,
    DINO_B16,
    AestheticHead,
    ClipViT,
    DinoViT,
    ViTSizes,
)
from evaluation.networks.tiny import CLIP_TINY, CLIP_TINY_DIM, DINO_TINY, clip, dino, randomised

CLOSE = 1e-5


def pictures(height: int, width: int, count: int = 3) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(height * width))


def vit_of_transformers(sizes: ViTSizes, eps: float) -> ViTModel:
    config = ViTConfig(
        hidden_size=sizes.width,
        num_hidden_layers=sizes.depth,
        num_attention_heads=sizes.heads,
        intermediate_size=4 * sizes.width,
        image_size=sizes.picture,
        patch_size=sizes.patch,
        layer_norm_eps=eps,
    )
    return randomised(ViTModel(config, add_pooling_layer=False))


def clip_of_transformers(sizes: ViTSizes, dim: int) -> CLIPVisionModelWithProjection:
    config = CLIPVisionConfig(
        hidden_size=sizes.width,
        num_hidden_layers=sizes.depth,
        num_attention_heads=sizes.heads,
        intermediate_size=4 * sizes.width,
        image_size=sizes.picture,
        patch_size=sizes.patch,
        projection_dim=dim,
    )
    return randomised(CLIPVisionModelWithProjection(config))


@pytest.mark.parametrize("sizes", [DINO_TINY, ViTSizes(width=48, depth=3, heads=3, patch=16)])
def test_dino_equals_transformers_at_the_size_it_was_trained_on(sizes: ViTSizes, tmp_path):
    theirs = vit_of_transformers(sizes, eps=1e-6)
    theirs.save_pretrained(tmp_path)
    ours = load_dino(tmp_path / "model.safetensors", sizes=sizes)
    x = pictures(sizes.picture, sizes.picture)
    assert (ours(x) - theirs(x).last_hidden_state[:, 0]).abs().max() <= CLOSE


@pytest.mark.parametrize("sizes", [CLIP_TINY, ViTSizes(width=48, depth=3, heads=3, patch=32)])
def test_clip_equals_transformers(sizes: ViTSizes, tmp_path):
    theirs = clip_of_transformers(sizes, CLIP_TINY_DIM)
    theirs.save_pretrained(tmp_path)
    ours = load_clip(tmp_path / "model.safetensors", sizes=sizes, dim=CLIP_TINY_DIM)
    x = pictures(sizes.picture, sizes.picture)
    expected = theirs(x).image_embeds
    assert expected.abs().max() > 0.1
    assert (ours(x) - expected).abs().max() <= CLOSE


def test_positions_of_the_trained_size_are_those_trained():
    network = dino()
    assert network.positions(64, 64) is network.pos_embed
    assert network.positions(70, 70) is network.pos_embed  # as many patches, and square
    moved = network.positions(64, 70)  # as many patches, but not square: moved by the 0.1
    assert (moved - interpolated(network, 4, 4)).abs().max() < 1e-5 < 1e-3 < (moved - network.pos_embed).abs().max()


def interpolated(network: DinoViT, rows: int, columns: int) -> Tensor:
    """The stated formula, sample by sample: row r is read at (r + 0.5) grid / (rows + 0.1) - 0.5, bicubically."""
    grid = network.sizes.grid
    table = network.pos_embed[0, 1:].reshape(grid, grid, -1)
    down, across = cubic(rows, grid), cubic(columns, grid)
    moved = torch.einsum("ra,cb,abd->rcd", down, across, table.double())
    return torch.cat((network.pos_embed[0, :1], moved.flatten(0, 1).float()))[None]


def cubic(count: int, grid: int) -> Tensor:
    """Weights (count, grid) of Keys' cubic convolution with a = -0.75, edges repeated."""
    weights = torch.zeros(count, grid, dtype=torch.float64)
    for i in range(count):
        place = (i + 0.5) * grid / (count + 0.1) - 0.5
        for tap in range(int(place // 1) - 1, int(place // 1) + 3):
            x = abs(place - tap)
            near, far = (1.25 * x - 2.25) * x * x + 1, ((-0.75 * x + 3.75) * x - 6) * x + 3
            weights[i, min(max(tap, 0), grid - 1)] += near if x <= 1 else far
    return weights


@pytest.mark.parametrize(("height", "width"), [(64, 112), (96, 64), (16, 64), (128, 128), (79, 130)])
def test_positions_of_other_sizes_follow_the_formula(height: int, width: int):
    network = dino()
    expected = interpolated(network, height // 16, width // 16)
    assert network.positions(height, width).shape == expected.shape
    assert (network.positions(height, width) - expected).abs().max() < 1e-5


def test_the_tenth_of_a_patch_matters():
    network = dino()
    table = network.pos_embed[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    by_size = F.interpolate(table, size=(4, 7), mode="bicubic").flatten(2).transpose(1, 2)
    exact = network.positions(64, 112)[:, 1:]
    assert ((by_size - exact).norm() / exact.norm()) > 0.01


def test_what_does_not_fill_a_patch_is_dropped():
    network, x = dino(), pictures(79, 130)
    assert torch.equal(network(x), network(x[..., :64, :128])) and network(x).shape == (3, 32)
    assert (network(x) - network(x[..., 15:, :])).abs().max() > 1e-3


def test_pictures_do_not_see_each_other():
    for network, x in ((dino(), pictures(64, 96)), (clip(), pictures(64, 64))):
        alone = torch.cat([network(one[None]) for one in x])
        assert (network(x) - alone).abs().max() <= 1e-5
        assert torch.equal(network(x), network(x))


def test_nothing_is_recorded_for_a_gradient():
    network = DinoViT(DINO_TINY)
    assert not network(pictures(64, 64)).requires_grad


@pytest.mark.parametrize(
    ("network", "millions"),
    [(lambda: DinoViT(), 85.80), (lambda: ClipViT(), 87.85), (lambda: ClipViT(CLIP_L14, CLIP_L14_DIM), 303.97)],
)
def test_the_public_networks_have_their_published_sizes(network, millions: float):
    with torch.device("meta"):
        weights = sum(weight.numel() for weight in network().parameters())
    assert round(weights / 1e6, 2) == millions
    assert (DINO_B16.width, CLIP_B32_DIM, CLIP_L14_DIM) == (768, 512, 768)


def test_the_aesthetic_head_scores_directions():
    head, x = randomised(AestheticHead(8)), torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    plain = nn.Linear(8, 1)
    plain.load_state_dict(head.state_dict())
    assert torch.allclose(head(x), plain(x / x.norm(dim=1, keepdim=True))[:, 0], atol=1e-6)
    assert torch.allclose(head(7 * x), head(x), atol=1e-6) and head(x).shape == (5,)
