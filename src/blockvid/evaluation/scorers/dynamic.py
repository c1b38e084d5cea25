"""Motion as VBench measures it: how much by RAFT, how evenly by AMT."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from blockvid.errors import InputError
from blockvid.evaluation.metric import Metric
from blockvid.evaluation.networks.amt import AMT, NETWORK
from blockvid.evaluation.networks.checkpoints import load_raft
from blockvid.evaluation.networks.preprocess import planes
from blockvid.evaluation.networks.raft import dynamic, padded
from blockvid.evaluation.scorers.motion import interval, is_dynamic
from blockvid.evaluation.scorers.spans import average, triples
from blockvid.evaluation.series import Footage, Picture, Reader, Rows, Series, Window
from blockvid.evaluation.weights import Found

RAFT_LEAST = 121
"""Sides in pixels below which RAFT, on multiples of 8, has no flow."""
AMT_LEAST = 113
"""Sides in pixels below which AMT divides by zero."""


@dataclass(frozen=True)
class Raft:
    """fast: the mean of the longest 5 % of RAFT's flow from frame t-k to t, in pixels, where k divides t; else nan.

    k = max(1, round(fps / 8)). All nan for frames with a side below 121 pixels.
    """

    weights: Found
    name: str = "raft"

    @property
    def identity(self) -> str:
        """The weights; version 1 of everything else."""
        return f"raft 1 {self.weights.sha256}"

    def open(self, footage: Footage, device: torch.device) -> Reader:
        """Load the network. Raises InputError."""
        step, small = interval(footage.fps), min(footage.width, footage.height) < RAFT_LEAST
        network = load_raft(self.weights.path, device)

        def read(window: Window) -> Rows:
            fast = np.full(window.stop - window.start, np.nan, dtype=np.float32)
            for index in range(window.start, window.stop):
                end = window.pictures[index]
                if end.number % step == 0 and end.number > 0 and not small:
                    # One pair at a time: the correlations of one at 854x480 are 165 MB.
                    pair = (padded(planes(p.pixels).to(device)) for p in (window.pictures[index - step], end))
                    fast[index - window.start] = float(dynamic(network(*pair)))
            return {"fast": fast}

        return Reader(read, before=step)


def dynamic_degree(series: Series, span: range, footage: Footage) -> float:
    """VBench's rule over the sampled pairs inside a span, which lie on the video's grid; nan without any."""
    step = interval(footage.fps)
    first = -(-span.start // step) * step
    moved = np.asarray(series["raft.fast"][first + step : span.stop : step])
    threshold = 6 * min(footage.width, footage.height) / 256
    return float(is_dynamic(moved, threshold)) if len(moved) and not np.isnan(moved).all() else math.nan


@dataclass(frozen=True)
class Interpolated:
    """even: of the triple (t-1, t, t+1), (255 - MAD) / 255 of frame t against AMT's middle of its neighbours.

    All nan for frames with a side below 113 pixels.
    """

    checkout: Path
    weights: Found
    name: str = "amt"

    @property
    def identity(self) -> str:
        """The weights and the checkout's definition of the network. Raises InputError where that cannot be read."""
        try:
            code = hashlib.sha256((self.checkout / NETWORK).read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(
                f"{self.checkout / NETWORK} cannot be read ({error.strerror}); "
                "name the folder of a checkout of github.com/MCG-NKU/AMT"
            ) from None
        return f"amt 1 {self.weights.sha256} {code}"

    def open(self, footage: Footage, device: torch.device) -> Reader:
        """Import the checkout and load the weights. Raises InputError."""
        network = AMT.from_checkout(self.checkout, self.weights.path, device)
        small = min(footage.width, footage.height) < AMT_LEAST

        def read(window: Window) -> Rows:
            pictures = window.pictures
            even = np.full(window.stop - window.start, np.nan, dtype=np.float32)
            inner = [t for t in range(window.start, window.stop) if 0 < t < len(pictures) - 1]
            if inner and not small:
                before, middle, after = (stacked([pictures[t + offset] for t in inner]) for offset in (-1, 0, 1))
                even[[t - window.start for t in inner]] = network.smoothness(before, middle, after).cpu().numpy()
            return {"even": even}

        return Reader(read, before=1, after=1)


def stacked(pictures: list[Picture]) -> UInt8[Tensor, "b 3 h w"]:
    """Their pixels, channels first."""
    return rearrange(torch.from_numpy(np.stack([p.pixels for p in pictures])), "b h w c -> b c h w")


def motion_smoothness(series: Series, span: range, footage: Footage) -> float:  # noqa: ARG001
    """The mean over the odd frames of a span, counted from its first: those that VBench leaves out and interpolates."""
    return average(np.asarray(triples(series["amt.even"], span)[::2]))


def metrics(
    raft: Found | None = None, amt: Found | None = None, amt_checkout: str | Path | None = None
) -> tuple[Metric, ...]:
    """dynamic_degree and motion_smoothness of tier vbench, for the weights that are given; AMT's need a checkout."""
    found = []
    if raft is not None:
        found.append(
            Metric(
                name="dynamic_degree",
                tier="vbench",
                title="Dynamic degree",
                formula="1 if a quarter of about 8 pairs a second move: fastest 5 % of RAFT flow > 6/256 of short side",
                extractors=(Raft(raft),),
                score=dynamic_degree,
                better="higher",
                bounds=(0, 1),
                model=raft.sha256,
            )
        )
    if amt is not None and amt_checkout is not None:
        found.append(
            Metric(
                name="motion_smoothness",
                tier="vbench",
                title="Motion smoothness",
                formula="(255 - MAD) / 255 of odd frames against AMT's interpolation of their neighbours",
                extractors=(Interpolated(Path(amt_checkout), amt),),
                score=motion_smoothness,
                better="higher",
                bounds=(0, 1),
                model=amt.sha256,
                curve="amt.even",
            )
        )
    return tuple(found)
