"""Vision transformers that embed a picture: DINO's, CLIP's, and LAION's aesthetic head on the latter.

Pictures come preprocessed (`preprocess.DINO_PICTURE`, `CLIP_PICTURE`). Parameters have the names that timm gives them,
which are also DINO's own; `checkpoints` translates the other layouts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ViTSizes:
    """Of a vision transformer; `patch` and `picture`, what it was trained on, are pixels a side."""

    width: int
    depth: int
    heads: int
    patch: int
    picture: int = 224

    @property
    def grid(self) -> int:
        """Patches a side."""
        return self.picture // self.patch


DINO_B16 = ViTSizes(width=768, depth=12, heads=12, patch=16)
CLIP_B32, CLIP_B32_DIM = ViTSizes(width=768, depth=12, heads=12, patch=32), 512
CLIP_L14, CLIP_L14_DIM = ViTSizes(width=1024, depth=24, heads=16, patch=14), 768


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), the approximation of GELU that OpenAI trained CLIP with."""
    return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        return self.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)"))


class MLP(nn.Module):
    """Two linear layers, four times as wide between them."""

    def __init__(self, width: int, activation: Activation) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.activation = activation

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.fc2(self.activation(self.fc1(x)))


class Block(nn.Module):
    """x + attention(norm x), then x + mlp(norm x)."""

    def __init__(self, width: int, heads: int, activation: Activation, eps: float) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps), MLP(width, activation)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Patches(nn.Module):
    """Squares of the picture to tokens, row by row; what does not fill a square at the right and below is dropped."""

    def __init__(self, width: int, patch: int, bias: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch, bias=bias)

    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        return rearrange(self.proj(pictures), "b d h w -> b (h w) d")


class DinoViT(nn.Module):
    """DINO's ViT (Caron et al. 2021): the normalised CLS token of a picture of any size from one patch up."""

    def __init__(self, sizes: ViTSizes = DINO_B16, eps: float = 1e-6) -> None:
        super().__init__()
        self.sizes = sizes
        self.patch_embed = Patches(sizes.width, sizes.patch, bias=True)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, sizes.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + sizes.grid**2, sizes.width))
        self.blocks = nn.ModuleList(Block(sizes.width, sizes.heads, F.gelu, eps) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(sizes.width, eps)

    @torch.no_grad()
    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        x = self.patch_embed(pictures)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1)
        x = x + self.positions(pictures.shape[-2], pictures.shape[-1])
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0])

    def positions(self, height: int, width: int) -> Float[Tensor, "1 n d"]:
        """Position embeddings for a picture of that many pixels.

        Those trained, if the picture is square and has as many patches; otherwise interpolated bicubically, by the
        scale (patches + 0.1) / trained patches in each direction: the 0.1 was to guard against rounding, and moves
        every sampling point a little, so the exact number matters.
        """
        grid, patch = self.sizes.grid, self.sizes.patch
        rows, columns = height // patch, width // patch
        if height == width and rows * columns == grid**2:
            return self.pos_embed
        trained = rearrange(self.pos_embed[:, 1:], "1 (h w) d -> 1 d h w", h=grid)
        side = math.sqrt(grid**2)
        scale = (rows + 0.1) / side, (columns + 0.1) / side
        moved = F.interpolate(trained, scale_factor=scale, mode="bicubic", align_corners=False)
        return torch.cat((self.pos_embed[:, :1], rearrange(moved, "1 d h w -> 1 (h w) d")), dim=1)


class ClipViT(nn.Module):
    """CLIP's image encoder (Radford et al. 2021): square pictures of the trained size to embeddings, not normalised."""

    def __init__(self, sizes: ViTSizes = CLIP_B32, dim: int = CLIP_B32_DIM, eps: float = 1e-5) -> None:
        """`dim` is the width of the space shared with text."""
        super().__init__()
        self.sizes = sizes
        self.patch_embed = Patches(sizes.width, sizes.patch, bias=False)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, sizes.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + sizes.grid**2, sizes.width))
        self.norm_pre = nn.LayerNorm(sizes.width, eps)
        self.blocks = nn.ModuleList(Block(sizes.width, sizes.heads, quick_gelu, eps) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(sizes.width, eps)
        self.head = nn.Linear(sizes.width, dim, bias=False)

    @torch.no_grad()
    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b e"]:
        x = self.patch_embed(pictures)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1)
        x = self.norm_pre(x + self.pos_embed)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))


class AestheticHead(nn.Linear):
    """LAION's linear aesthetic predictor: CLIP L/14 embeddings to scores of about 1..10, not clamped."""

    def __init__(self, dim: int = CLIP_L14_DIM) -> None:
        super().__init__(dim, 1)

    @torch.no_grad()
    def forward(self, input: Float[Tensor, "b e"]) -> Float[Tensor, " b"]:
        """Of embeddings as `ClipViT` gives them; they are brought to length 1 here."""
        return super().forward(F.normalize(input.float(), dim=-1))[:, 0]
