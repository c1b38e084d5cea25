"""RAFT: optical flow by recurrent updates over all-pairs correlations (Teed and Deng 2020, arXiv 2003.12039).

VBench's dynamic degree is the large network trained on FlyingChairs and FlyingThings (raft-things, BSD-3), which
torchvision calls C_T_V1. Flow is (x, y) in pixels: a point of the first frame at p is in the second at p + flow(p).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn

from blockvid.errors import InputError

STRIDE = 8
"""Pixels per place of the features."""
UPDATES = 20
"""As in VBench; the network was trained with 12."""
TOP = 0.05
"""Share of a flow's vectors, the longest, that VBench's dynamic degree takes the mean of."""


class RAFT(nn.Module):
    """The network, frozen and fp32; the defaults are those of the released checkpoints.

    `channels` of the encoders' three stages, `features` that are correlated, `hidden` channels of the recurrent state
    and of its context, `levels` of correlations, each halved, read within `radius` places.
    """

    def __init__(
        self,
        channels: tuple[int, int, int] = (64, 96, 128),
        features: int = 256,
        hidden: int = 128,
        levels: int = 4,
        radius: int = 4,
    ) -> None:
        super().__init__()
        self.levels, self.radius = levels, radius
        self.fnet = Encoder(channels, features, nn.InstanceNorm2d)
        self.cnet = Encoder(channels, 2 * hidden, nn.BatchNorm2d)
        self.update_block = Update(levels * (2 * radius + 1) ** 2, hidden)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(
        self, before: Float[Tensor, "b 3 h w"], after: Float[Tensor, "b 3 h w"], updates: int = UPDATES
    ) -> Float[Tensor, "b 2 h w"]:
        """The flow from frames to frames in 0..255, at every pixel.

        Raises InputError unless sides are multiples of 8 (see `padded`) and leave two places at the coarsest level:
        128 pixels or more for the released network.
        """
        _check_size(before.shape[2:], STRIDE * 2**self.levels)
        before, after = (2 * (frames / 255) - 1 for frames in (before, after))
        one, other = self.fnet(torch.cat((before, after))).chunk(2)
        correlations = correlation_levels(one, other, self.levels)
        state, context = self.cnet(before).chunk(2, dim=1)
        state, context = state.tanh(), context.relu()
        here = places(state)
        there = here
        for _ in range(updates):
            seen = looked_up(correlations, there, self.radius)
            state, change = self.update_block(state, context, seen, there - here)
            there = there + change
        return upsampled(there - here, 0.25 * self.update_block.mask(state))


class Encoder(nn.Module):
    """A frame to features at an eighth of its size: a strided convolution and six residual blocks."""

    def __init__(self, channels: tuple[int, int, int], out: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        first, second, third = channels
        self.conv1, self.norm1 = nn.Conv2d(3, first, 7, stride=2, padding=3), norm(first)
        self.layer1 = nn.Sequential(Residual(first, first, norm, 1), Residual(first, first, norm, 1))
        self.layer2 = nn.Sequential(Residual(first, second, norm, 2), Residual(second, second, norm, 1))
        self.layer3 = nn.Sequential(Residual(second, third, norm, 2), Residual(third, third, norm, 1))
        self.conv2 = nn.Conv2d(third, out, 1)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h//8 w//8"]:
        x = F.relu(self.norm1(self.conv1(x)))
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class Residual(nn.Module):
    """Two convolutions around a skip, which a strided convolution shortens where the block does."""

    def __init__(self, channels: int, out: int, norm: Callable[[int], nn.Module], stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, out, 3, stride, padding=1), norm(out)
        self.conv2, self.norm2 = nn.Conv2d(out, out, 3, padding=1), norm(out)
        shorter = nn.Sequential(nn.Conv2d(channels, out, 1, stride), norm(out))
        self.downsample = nn.Identity() if stride == 1 else shorter

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d y x"]:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.downsample(x) + F.relu(self.norm2(self.conv2(y))))


class Update(nn.Module):
    """One step of the recurrence: what was seen at the present flow, to a new state and a change of the flow."""

    def __init__(self, seen: int, hidden: int) -> None:
        super().__init__()
        self.encoder = Motion(seen, hidden)
        self.gru = SepConvGRU(hidden, 2 * hidden)
        self.flow_head = FlowHead(hidden)
        self.mask = nn.Sequential(
            nn.Conv2d(hidden, 2 * hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(2 * hidden, 9 * STRIDE**2, 1)
        )
        """Of a state: logits of the convex upsampling, to be scaled by 0.25."""

    def forward(
        self,
        state: Float[Tensor, "b c h w"],
        context: Float[Tensor, "b c h w"],
        seen: Float[Tensor, "b k h w"],
        flow: Float[Tensor, "b 2 h w"],
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b 2 h w"]]:
        state = self.gru(state, torch.cat((context, self.encoder(flow, seen)), dim=1))
        return state, self.flow_head(state)


class Motion(nn.Module):
    """The flow and the correlations seen there, as features; the flow itself is the last two of them."""

    def __init__(self, seen: int, hidden: int) -> None:
        super().__init__()
        wide, narrow = 3 * hidden // 2, hidden // 2
        self.convc1, self.convc2 = nn.Conv2d(seen, 2 * hidden, 1), nn.Conv2d(2 * hidden, wide, 3, padding=1)
        self.convf1, self.convf2 = nn.Conv2d(2, hidden, 7, padding=3), nn.Conv2d(hidden, narrow, 3, padding=1)
        self.conv = nn.Conv2d(wide + narrow, hidden - 2, 3, padding=1)

    def forward(self, flow: Float[Tensor, "b 2 h w"], seen: Float[Tensor, "b k h w"]) -> Float[Tensor, "b c h w"]:
        correlation = F.relu(self.convc2(F.relu(self.convc1(seen))))
        motion = F.relu(self.convf2(F.relu(self.convf1(flow))))
        return torch.cat((F.relu(self.conv(torch.cat((correlation, motion), dim=1))), flow), dim=1)


class SepConvGRU(nn.Module):
    """A gated recurrent unit of 5 x 5 places, as one of 1 x 5 and one of 5 x 1."""

    def __init__(self, hidden: int, inputs: int) -> None:
        super().__init__()
        row, column = ((1, 5), (0, 2)), ((5, 1), (2, 0))
        self.convz1, self.convr1, self.convq1 = (nn.Conv2d(hidden + inputs, hidden, row[0], 1, row[1]) for _ in "zrq")
        self.convz2, self.convr2, self.convq2 = (
            nn.Conv2d(hidden + inputs, hidden, column[0], 1, column[1]) for _ in "zrq"
        )

    def forward(self, state: Float[Tensor, "b c h w"], x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b c h w"]:
        for z_of, r_of, q_of in (
            (self.convz1, self.convr1, self.convq1),
            (self.convz2, self.convr2, self.convq2),
        ):
            both = torch.cat((state, x), dim=1)
            z, r = z_of(both).sigmoid(), r_of(both).sigmoid()
            q = q_of(torch.cat((r * state, x), dim=1)).tanh()
            state = (1 - z) * state + z * q
        return state


class FlowHead(nn.Module):
    """A state to a change of the flow, in places."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(hidden, 2 * hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(2 * hidden, 2, 3, padding=1)

    def forward(self, state: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 2 h w"]:
        return self.conv2(F.relu(self.conv1(state)))


def places(like: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 2 h w"]:
    """The (x, y) of every place of a map as large as `like`."""
    h, w = like.shape[2:]
    y, x = torch.meshgrid(
        torch.arange(h, dtype=like.dtype, device=like.device),
        torch.arange(w, dtype=like.dtype, device=like.device),
        indexing="ij",
    )
    return torch.stack((x, y)).expand(len(like), -1, -1, -1)


def correlation_levels(
    before: Float[Tensor, "b c h w"], after: Float[Tensor, "b c h w"], levels: int
) -> tuple[Float[Tensor, "p 1 _ _"], ...]:
    """Scaled products of every place p of `before` with all of `after`, and their means over 2 x 2, 4 x 4, ... places.

    The first level has (h w)^2 numbers: 165 MB for a pair at 854x480.
    """
    channels, rows = before.shape[1:3]
    products = torch.matmul(rearrange(before, "b c h w -> b (h w) c"), rearrange(after, "b c h w -> b c (h w)"))
    level = rearrange(products / math.sqrt(channels), "b p (h w) -> (b p) 1 h w", h=rows)
    pyramid = [level]
    for _ in range(levels - 1):
        level = F.avg_pool2d(level, 2)
        pyramid.append(level)
    return tuple(pyramid)


def looked_up(
    correlations: tuple[Float[Tensor, "p 1 _ _"], ...], there: Float[Tensor, "b 2 h w"], radius: int
) -> Float[Tensor, "b k h w"]:
    """At every level, the correlations within `radius` places of `there`, bilinear, 0 outside; level, x, y order."""
    b, _, h, w = there.shape
    around = torch.linspace(-radius, radius, 2 * radius + 1, dtype=there.dtype, device=there.device)
    # The first axis of the window moves x: the original has it so, and its convolutions were trained to it.
    window = torch.stack(torch.meshgrid(around, around, indexing="ij"), dim=-1)
    centre = rearrange(there, "b xy h w -> (b h w) 1 1 xy")
    seen = []
    for index, level in enumerate(correlations):
        size = torch.tensor((level.shape[3], level.shape[2]), dtype=there.dtype, device=there.device)
        grid = 2 * (centre / 2**index + window) / (size - 1) - 1
        seen.append(F.grid_sample(level, grid, align_corners=True))
    return rearrange(torch.cat(seen, dim=1), "(b h w) l x y -> b (l x y) h w", b=b, h=h, w=w)


def upsampled(flow: Float[Tensor, "b 2 h w"], logits: Float[Tensor, "b k h w"]) -> Float[Tensor, "b 2 8*h 8*w"]:
    """Flow in places to flow in pixels: every pixel's is a convex mixture of those of the 3 x 3 places around it."""
    weights = rearrange(logits, "b (n p q) h w -> b 1 n p q h w", n=9, p=STRIDE).softmax(dim=2)
    h, w = flow.shape[2:]
    around = rearrange(F.unfold(STRIDE * flow, 3, padding=1), "b (d n) (h w) -> b d n 1 1 h w", n=9, h=h, w=w)
    return rearrange((weights * around).sum(dim=2), "b d p q h w -> b d (h p) (w q)")


def padded(frames: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c y x"]:
    """Frames with their borders repeated to the next multiple of 8, half on each side, the odd pixel right and below.

    VBench measures the flow of padded frames without cutting the padding off again.
    """
    h, w = (-n % STRIDE for n in frames.shape[-2:])
    return F.pad(frames, (w // 2, w - w // 2, h // 2, h - h // 2), mode="replicate")


def dynamic(flow: Float[Tensor, "b 2 h w"]) -> Float[Tensor, " b"]:
    """How much moves, in pixels: the mean length of the longest 5 % of the vectors, as in VBench's dynamic degree.

    Raises InputError for fewer than 20 pixels, of which 5 % are none.
    """
    lengths = reduce(flow.square(), "b xy h w -> b (h w)", "sum").sqrt()
    count = int(lengths.shape[1] * TOP)
    if not count:
        h, w = flow.shape[2:]
        raise InputError(f"a flow of {w}x{h} has no longest 5 %; use 20 pixels or more")
    return lengths.topk(count, dim=1).values.mean(dim=1)


TORCHVISION = (
    (r"^feature_encoder\.", "fnet."),
    (r"^context_encoder\.", "cnet."),
    (r"^(.net)\.conv\.", r"\1.conv2."),
    (r"\.convnormrelu\.", ".convnormrelu1."),
    (r"\.convnormrelu(\d)\.0\.", r".conv\1."),
    (r"\.convnormrelu(\d)\.1\.", r".norm\1."),
    (r"\.motion_encoder\.conv\.0\.", ".encoder.conv."),
    (r"\.motion_encoder\.conv(.)\w+(\d)\.0\.", r".encoder.conv\1\2."),
    (r"\.recurrent_block\.convgru(\d)\.conv(.)\.", r".gru.conv\2\1."),
    (r"^mask_predictor\.convrelu\.0\.", "update_block.mask.0."),
    (r"^mask_predictor\.conv\.", "update_block.mask.2."),
)
"""Parts of torchvision's names, as patterns, and what stands for them here and in the original."""


def raft_weights(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint of the original (raft-things.pth) or of torchvision (raft_large) under the names of `RAFT`.

    Names that belong to neither are kept, so that a strict load refuses them.
    """
    weights = {}
    for name, weight in checkpoint.items():
        for old, new in TORCHVISION:
            name = re.sub(old, new, name)
        if ".norm3." not in name:  # the original's second name for downsample.1
            weights[name.removeprefix("module.")] = weight
    return weights


def _check_size(size: torch.Size, least: int) -> None:
    h, w = size
    if h % STRIDE or w % STRIDE:
        raise InputError(f"frames of {w}x{h} are not whole places of {STRIDE} pixels; use padded(frames)")
    if min(h, w) < least:
        raise InputError(f"frames of {w}x{h} are too small for optical flow; use sides of {least} pixels or more")
