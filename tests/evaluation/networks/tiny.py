"""Small networks with random weights, and those weights as each library lays them out."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from blockvid.evaluation.networks.vit import ClipViT, DinoViT, ViTSizes

Network = TypeVar("Network", bound=nn.Module)
Weights = dict[str, Tensor]
DINO_TINY = ViTSizes(width=32, depth=2, heads=4, patch=16, picture=64)
CLIP_TINY, CLIP_TINY_DIM = ViTSizes(width=32, depth=2, heads=4, patch=16, picture=64), 24


def randomised(network: Network, seed: int = 0) -> Network:
    """With weights of a size at which a wrong epsilon, activation or order of heads shows."""
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        weight.data = torch.randn(weight.shape, generator=generator) * 0.2
    return network.eval().requires_grad_(False)


def dino() -> DinoViT:
    return randomised(DinoViT(DINO_TINY))


def clip() -> ClipViT:
    return randomised(ClipViT(CLIP_TINY, CLIP_TINY_DIM), seed=1)


def openai(weights: Weights) -> Weights:
    """CLIP as in OpenAI's file and open_clip's: read from their sources."""
    swaps = [
        *[("patch_embed.proj.", "conv1."), ("cls_token", "class_embedding"), ("pos_embed", "positional_embedding")],
        *[
            ("blocks.", "transformer.resblocks."),
            ("norm_pre.", "ln_pre."),
            (".norm1.", ".ln_1."),
            (".norm2.", ".ln_2."),
        ],
        *[(".attn.qkv.", ".attn.in_proj_"), (".attn.proj.", ".attn.out_proj."), (".mlp.fc1.", ".mlp.c_fc.")],
        (".mlp.fc2.", ".mlp.c_proj."),
    ]
    result = {}
    for name, weight in weights.items():
        if name == "head.weight":
            name, weight = "proj", weight.T.contiguous()
        if name.startswith("norm."):
            name = name.replace("norm.", "ln_post.")
        for ours, theirs in swaps:
            name = name.replace(ours, theirs)
        result[f"visual.{name}"] = weight.reshape(weight.shape[-1]) if name == "class_embedding" else weight
    result["visual.positional_embedding"] = result["visual.positional_embedding"][0]
    text = {
        "positional_embedding": torch.zeros(7, 8),
        "text_projection": torch.zeros(8, CLIP_TINY_DIM),
        "logit_scale": torch.ones([]),
        "transformer.resblocks.0.ln_1.weight": torch.ones(8),
        "token_embedding.weight": torch.zeros(9, 8),
        "ln_final.weight": torch.ones(8),
    }
    return {**text, **result}


class Named(nn.Module):
    """A module whose state dict is `weights`, under submodules as their dots say."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        inner: dict[str, Weights] = {}
        for name, weight in weights.items():
            first, _, rest = name.partition(".")
            if rest:
                inner.setdefault(first, {})[rest] = weight
            else:
                self.register_parameter(first, nn.Parameter(weight, requires_grad=False))
        for name, group in inner.items():
            self.add_module(name, Named(group))

    def forward(self, x: Tensor) -> Tensor:
        return x
