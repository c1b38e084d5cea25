"""A classifier that reads subject, scene, time of day and direction from storybook frames: the scorecard's eyes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from blockvid.errors import InputError
from blockvid.model.autoencoder import to_unit
from blockvid.storybook.scenes import SCENES
from blockvid.storybook.subjects import SUBJECTS
from blockvid.storybook.takes import CHUNK_SECONDS, DIRECTED, HOURS, Take, time_at

NOBODY = "nobody"
CLASSES: dict[str, tuple[str, ...]] = {
    "subject": (*(subject.key for subject in SUBJECTS), NOBODY),
    "scene": tuple(SCENES),
    "time": tuple(HOURS),
    "direction": ("left", "right", "none"),
}
"""What is read, and the answers there are."""
DIRECTION = "direction"
APART = 0.5
"""Seconds between the three frames of a window."""
WINDOWS = (0.5, 1.25, 2.0, 2.75)
"""Seconds into a chunk at which the windows that it is read from begin."""
SETTLED = 0.5
"""Seconds until a subject moves as its chunk's caption says."""
DOUBT = 0.4
"""Hours around the borders between times of day in which nothing is asked."""
SEEN = 40
"""Pixels of 160x96 from which a subject counts as seen; between none and these it is asked nothing."""


def truth(take: Take, seconds: float, visible: Sequence[int]) -> dict[str, int]:
    """The class of each answer for the window of three frames from `seconds` on; -1 where it would be ambiguous.

    `visible` are the pixels of the subject in each frame, at 160x96.
    """
    last = seconds + 2 * APART
    begins, ends = take.segment_at(seconds), take.segment_at(last)
    settled = seconds % CHUNK_SECONDS >= SETTLED and begins is ends
    directed = begins.action in DIRECTED
    still = not directed and begins.action not in ("jump", "turn")
    seen, gone = min(visible) >= SEEN, max(visible) == 0
    subject = take.subject if seen else NOBODY
    return {
        "subject": CLASSES["subject"].index(subject) if seen or gone else -1,
        "scene": CLASSES["scene"].index(take.scene),
        "time": time_class(take, seconds, last),
        "direction": CLASSES["direction"].index(begins.direction if directed else "none")
        if settled and seen and (directed or still)
        else -1,
    }


def time_class(take: Take, begin: float, end: float) -> int:
    """The time of day, -1 where it changes in these seconds or is about to: nobody sees such a border to the hour."""
    hours = (take.hour(begin) - DOUBT, take.hour(begin), take.hour(end), take.hour(end) + DOUBT)
    times = {time_at(hour % 24) for hour in hours}
    return CLASSES["time"].index(times.pop()) if len(times) == 1 else -1


@dataclass(frozen=True)
class Reading:
    """What a chunk shows, and how sure that is."""

    answers: dict[str, str]
    confidence: dict[str, float]


class Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, width), nn.GroupNorm(8, width)
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class Heading(nn.Module):
    """Which way a subject goes: each frame's features at a quarter of its size are correlated with the next frame's.

    Every place looks up to 36 pixels to either side and 4 up and down, as in the correlation layer of FlowNet
    (arXiv 1504.06852), so that a shift is seen as such and not learned anew for each thing that may be shifted.
    """

    REACH, LIFT = 9, 1

    def __init__(self, answers: int, width: int = 16) -> None:
        super().__init__()
        seen = 2 * width
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2), nn.GroupNorm(8, width), nn.SiLU(),
            nn.Conv2d(width, seen, 3, stride=2, padding=1), Residual(seen),
        )  # fmt: skip
        self.key = nn.Conv2d(seen, width, 1)
        self.gain = nn.Parameter(torch.tensor(4.0))
        shifts = (2 * self.LIFT + 1) * (2 * self.REACH + 1)
        self.body = nn.Sequential(
            nn.Conv2d(2 * shifts + seen, 48, 1), Residual(48),
            nn.Conv2d(48, 64, 3, stride=2, padding=1), Residual(64), nn.GroupNorm(8, 64), nn.SiLU(),
            nn.Conv2d(64, 96, 3, stride=2, padding=1), Residual(96),
        )  # fmt: skip
        self.head = nn.Linear(2 * 96, answers)

    def forward(self, windows: Float[Tensor, "b 3 3 h w"]) -> Float[Tensor, "b _"]:
        x = self.stem(windows.flatten(0, 1))
        keys = F.normalize(self.key(x), dim=1).unflatten(0, (-1, 3))
        agreement = self.gain * self._correlated(keys[:, :2], keys[:, 1:]).flatten(1, 2)
        return self.head(_pooled(self.body(torch.cat((agreement, x.unflatten(0, (-1, 3))[:, 1]), dim=1))))

    def _correlated(
        self, keys: Float[Tensor, "b 2 c y x"], others: Float[Tensor, "b 2 c y x"]
    ) -> Float[Tensor, "b 2 s y x"]:
        """The product of every place with each of those around it in the other frame; 0 beyond its edges."""
        rows, columns = keys.shape[-2:]
        around = F.pad(others, (self.REACH, self.REACH, self.LIFT, self.LIFT))
        return torch.stack(
            [
                (keys * around[..., y : y + rows, x : x + columns]).sum(2)
                for y in range(2 * self.LIFT + 1)
                for x in range(2 * self.REACH + 1)
            ],
            dim=2,
        )


def _pooled(x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c2"]:
    return torch.cat((x.mean((2, 3)), x.amax((2, 3))), dim=1)


class Probe(ModelMixin, ConfigMixin):
    """Two small convolutional networks over windows of three frames, half a second apart, at 160x96.

    One says what is shown, the other (`heading`) which way it goes.
    """

    @register_to_config
    def __init__(self, width: int = 24, classes: dict[str, list[str]] | None = None) -> None:
        """`classes` are those of a saved network; None: those of today's cast and scenes."""
        super().__init__()
        known = {name: list(answers) for name, answers in CLASSES.items()}
        if classes is not None and {name: list(answers) for name, answers in classes.items()} != known:
            raise InputError(
                "the probe was trained for another cast; train it again with `blockvid train storybook_probe`"
            )
        self.register_to_config(classes=known)
        widths = (width, 2 * width, 4 * width, 8 * width)
        stages: list[nn.Module] = [nn.Conv2d(9, width, 5, stride=2, padding=2)]
        for narrow, wide in pairwise(widths):
            stages += [nn.GroupNorm(8, narrow), nn.SiLU(), nn.Conv2d(narrow, wide, 3, stride=2, padding=1)]
            stages += [Residual(wide)]
        self.body = nn.Sequential(*stages)
        shown = {name: len(answers) for name, answers in known.items() if name != DIRECTION}
        self.heads = nn.ModuleDict({name: nn.Linear(2 * widths[-1], answers) for name, answers in shown.items()})
        self.heading = Heading(len(known[DIRECTION]))

    def forward(
        self, windows: Float[Tensor, "b 3 3 h w"], questions: Sequence[str] = tuple(CLASSES)
    ) -> dict[str, Float[Tensor, "b _"]]:
        """Logits by question, of those asked; windows are (frame, channel) in [-1, 1]."""
        found = {}
        if any(name in self.heads for name in questions):
            pooled = _pooled(self.body(windows.flatten(1, 2)))
            found = {name: head(pooled) for name, head in self.heads.items() if name in questions}
        return found | ({DIRECTION: self.heading(windows)} if DIRECTION in questions else {})

    @torch.no_grad()
    def read(self, frames: UInt8[Tensor, "t h w 3"], fps: float) -> Reading:
        """What a chunk of four seconds shows: its windows' mean. Raises InputError if it is shorter.

        Of directions a window counts as it shows anyone: nobody tells the way of one who is not in yet.
        """
        needed = round((WINDOWS[-1] + 2 * APART) * fps) + 1
        if len(frames) < needed:
            raise InputError(
                f"{len(frames)} frames are too few to read a chunk from; give {needed} at {fps:g} a second"
            )
        starts = torch.tensor([round(start * fps) for start in WINDOWS])
        windows = window(frames, starts, round(APART * fps))
        each = {name: logits.log_softmax(-1) for name, logits in self(windows).items()}
        found = {name: logits.mean(0) for name, logits in each.items()}
        seen = 1 - each["subject"][:, CLASSES["subject"].index(NOBODY)].exp()
        found[DIRECTION] = torch.einsum("nd,n->d", each[DIRECTION], seen / seen.sum().clamp(min=1e-6))
        best = {name: int(scores.argmax()) for name, scores in found.items()}
        return Reading(
            {name: CLASSES[name][index] for name, index in best.items()},
            {name: float(found[name].exp()[index]) for name, index in best.items()},
        )


def window(frames: UInt8[Tensor, "t h w 3"], starts: Int[Tensor, " n"], apart: int) -> Float[Tensor, "n 3 3 96 160"]:
    """The windows of three frames from each of `starts` on, `apart` frames from each other, as the probe takes them."""
    picked = to_unit(frames[starts[:, None] + apart * torch.arange(3)]).transpose(1, 2)
    if picked.shape[-2:] == (96, 160):
        return picked
    return F.interpolate(picked.flatten(0, 1), (96, 160), mode="area").unflatten(0, (-1, 3))
