"""MUSIQ: the quality of a picture from patches of three sizes of it (Ke et al. 2021, arXiv 2108.05997).

VBench's imaging quality is the network trained on SPAQ in its PyTorch port, which resizes with a bicubic filter where
the authors' code has a Gaussian one; everything else follows the authors' (google-research, Apache-2.0).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from blockvid.errors import InputError

LONG_SIDES = (224, 384)
"""Long sides in pixels of the two resized pictures; the third is the picture as it is."""
PATCH = 32
GRID = 10
"""Places per axis to which the patches of a picture of any size are hashed."""
STEM = 64
GROUPS = 32


class MUSIQ(nn.Module):
    """The network, frozen; `width` of a token, `heads` and `layers` of attention, `hidden` channels of an MLP.

    The defaults are those of the released checkpoints.
    """

    def __init__(self, width: int = 384, heads: int = 6, layers: int = 14, hidden: int = 1152) -> None:
        super().__init__()
        self.stem = Stem()
        self.embedding = nn.Linear((PATCH // 4) ** 2 * 4 * STEM, width)
        self.place = nn.Parameter(torch.zeros(GRID * GRID, width))
        self.scale = nn.Parameter(torch.zeros(len(LONG_SIDES) + 1, width))
        self.cls = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, 1)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, frames: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """The quality of frames in [0, 1]: 0 to 100 as trained on SPAQ, not clamped.

        Raises InputError where the long side is 448 times the short one or more: the smallest picture would be empty.
        """
        native = 2 * frames - 1
        pictures = (*(resized(native, side) for side in LONG_SIDES), native)
        # The original pads the first two to 49 and 144 tokens and masks the padding with -1000 before the softmax:
        # weights of exactly 0 in fp32. Pictures of a batch have one size here, so nothing needs padding.
        tokens = [self._tokens(picture, scale) for picture, scale in zip(pictures, self.scale, strict=True)]
        x = torch.cat((self.cls.expand(len(frames), 1, -1), *tokens), dim=1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))[:, 0]

    def _tokens(self, picture: Float[Tensor, "b 3 h w"], scale: Float[Tensor, " d"]) -> Float[Tensor, "b n d"]:
        padded = same_padded(picture, PATCH, PATCH)
        y, x = padded.shape[2] // PATCH, padded.shape[3] // PATCH
        patches = rearrange(padded, "b c (y p) (x q) -> (b y x) c p q", p=PATCH, q=PATCH)
        features = rearrange(self.stem(patches), "(b n) c p q -> b n (p q c)", n=y * x)
        return self.embedding(features) + self.place[hashed_places(y, x, picture.device)] + scale


class Stem(nn.Module):
    """Each patch alone, 32 x 32 pixels to 8 x 8 of 256 channels: a strided convolution, a pool and a bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        wide = 4 * STEM
        self.conv_root, self.gn_root = StandardisedConv(3, STEM, 7, stride=2), nn.GroupNorm(GROUPS, STEM, eps=1e-6)
        self.conv_proj, self.gn_proj = StandardisedConv(STEM, wide, 1), nn.GroupNorm(GROUPS, wide, eps=1e-4)
        self.conv1, self.gn1 = StandardisedConv(STEM, STEM, 1), nn.GroupNorm(GROUPS, STEM, eps=1e-4)
        self.conv2, self.gn2 = StandardisedConv(STEM, STEM, 3), nn.GroupNorm(GROUPS, STEM, eps=1e-4)
        self.conv3, self.gn3 = StandardisedConv(STEM, wide, 1), nn.GroupNorm(GROUPS, wide, eps=1e-4)

    def forward(self, x: Float[Tensor, "n 3 p q"]) -> Float[Tensor, "n d p//4 q//4"]:
        x = F.relu(self.gn_root(self.conv_root(x)))
        x = F.max_pool2d(same_padded(x, 3, 2), 3, stride=2)  # padding with 0 is neutral: nothing is below it
        y = F.relu(self.gn1(self.conv1(x)))
        y = F.relu(self.gn2(self.conv2(y)))
        return F.relu(self.gn_proj(self.conv_proj(x)) + self.gn3(self.conv3(y)))


class StandardisedConv(nn.Conv2d):
    """A convolution by kernels of mean 0 and deviation 1, padded as TensorFlow's SAME (Qiao et al. 2019)."""

    def __init__(self, channels: int, out: int, size: int, stride: int = 1) -> None:
        super().__init__(channels, out, size, stride, bias=False)

    def forward(self, input: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d y x"]:
        centred = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        # The port divides by the unbiased deviation; the authors' code by the biased one.
        kernel = centred / (centred.std(dim=(1, 2, 3), keepdim=True, correction=1) + 1e-5)
        return F.conv2d(same_padded(input, self.kernel_size[0], self.stride[0]), kernel, stride=self.stride)


class Block(nn.Module):
    """Attention and MLP, each after a norm and around a skip."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "b s d"]) -> Float[Tensor, "b s d"]:
        y = self.norm1(x)
        q, k, v = (
            rearrange(part(y), "b s (h e) -> b h s e", h=self.heads) for part in (self.query, self.key, self.value)
        )
        x = x + self.out(rearrange(F.scaled_dot_product_attention(q, k, v), "b h s e -> b s (h e)"))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


def resized(frames: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b c y x"]:
    """`frames` at a long side of `side` pixels, up or down: bicubic without antialias, sides rounded half to even.

    Raises InputError if less than half a pixel is left of the short side.
    """
    h, w = frames.shape[-2:]
    ratio = side / max(h, w)
    size = round(h * ratio), round(w * ratio)
    if not min(size):
        raise InputError(
            f"a frame of {w}x{h} is too narrow to be measured at a long side of {side}; crop it, or leave out imaging "
            "quality"
        )
    return F.interpolate(frames, size=size, mode="bicubic", align_corners=False)


def same_padded(x: Float[Tensor, "b c h w"], size: int, stride: int) -> Float[Tensor, "b c y x"]:
    """Zeros around `x` so that windows of `size` at every `stride` cover it, the odd one at the end (TF's SAME)."""
    (top, bottom), (left, right) = (_same_padding(n, size, stride) for n in x.shape[-2:])
    return F.pad(x, (left, right, top, bottom))


def _same_padding(n: int, size: int, stride: int) -> tuple[int, int]:
    total = max((math.ceil(n / stride) - 1) * stride + size - n, 0)
    return total // 2, total - total // 2


def hashed_places(rows: int, columns: int, device: torch.device) -> Int[Tensor, " n"]:
    """The index into a GRID x GRID table of each of rows x columns patches, row by row: the nearest place (Eq. 1)."""
    axis = torch.arange(GRID, dtype=torch.float32, device=device)[None, None]
    y, x = (F.interpolate(axis, size=n, mode="nearest")[0, 0].long() for n in (rows, columns))
    return (y[:, None] * GRID + x).flatten()


RENAMED = (
    ("conv_root.", "stem.conv_root."),
    ("gn_root.", "stem.gn_root."),
    ("block1.", "stem."),
    ("transformer_encoder.posembed_input.position_emb", "place"),
    ("transformer_encoder.scaleembed_input.scale_emb", "scale"),
    ("transformer_encoder.encoder_norm.", "norm."),
    ("transformer_encoder.transformer.encoderblock_", "blocks."),
    ("transformer_encoder.cls", "cls"),
    (".attention.", "."),
    (".mlp.", "."),
)
"""Parts of the released checkpoints' names and what stands for them here."""


def musiq_weights(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The released PyTorch checkpoint (musiq_spaq_ckpt) under the names and in the shapes of `MUSIQ`.

    Names that belong to neither are kept, so that a strict load refuses them.
    """
    weights = {}
    for name, weight in checkpoint.items():
        for old, new in RENAMED:
            name = name.replace(old, new)
        weights[name] = weight.reshape(-1) if name == "cls" else weight.squeeze(0) if name == "place" else weight
    return weights
