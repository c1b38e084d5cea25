"""Results as an evaluation would leave them, made of nothing: for tests of what is built on the record."""

from __future__ import annotations

import colorsys
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from blockvid.evaluation.drift import Drift, RobustDrift
from blockvid.evaluation.metric import Tier
from blockvid.evaluation.results import (
    Configuration,
    DriftRecord,
    EstimateRecord,
    MetricRecord,
    Provenance,
    Quantity,
    Results,
    RobustRecord,
    Still,
    SummaryRecord,
    VideoRecord,
    Warn,
)
from blockvid.evaluation.statistics import Bootstrap, Direction, Estimate, summary

QUICK = Bootstrap(resamples=200)
MODEL = "1f0a9c3e" + 56 * "0"
DINO = "dd12ab34" + 56 * "7"


@dataclass(frozen=True)
class Kind:
    """How a made metric behaves: its level, the noise of a segment and its trend, both relative."""

    name: str
    tier: Tier
    formula: str
    level: float
    noise: float
    trend: float
    better: Direction | None = None
    bounds: tuple[float, float] | None = None
    model: str | None = None

    @property
    def key(self) -> str:
        return f"{self.name}@{self.tier}" + (f":{self.model[:8]}" if self.model else "")


KINDS: tuple[Kind, ...] = (
    Kind("clarity", "core", "mean over frames of Var(Laplacian of luma) (Eq. 20)", 412, 0.03, -0.32, "higher"),
    Kind("motion_smoothness", "core", "(255 - MAD of warped pairs) / 255", 0.987, 0.0004, -0.001, "higher", (0, 1)),
    Kind("dynamic_degree", "core", "1 if a quarter of pairs move by 6 px in 256, else 0", 1, 0, 0, "higher", (0, 1)),
    Kind("exposure", "core", "mean luma, 0 to 255", 121, 0.01, 0.12, None, (0, 255)),
    Kind("saturation", "core", "mean of (max - min) / max of RGB", 0.41, 0.02, 0.2, None, (0, 1)),
    Kind("boundary_jump", "core", "border over interior frame difference", 1.4, 0.08, 0, "lower"),
    Kind(
        "subject_consistency", "light", "mean of max(0, cos) to the previous and the first frame", 0.974, 0.002, -0.03,
        "higher", (0, 1), MODEL,
    ),
    Kind(
        "background_consistency", "light", "mean of max(0, cos) to the previous and the first frame", 0.981, 0.0015,
        -0.006, "higher", (0, 1), MODEL,
    ),
)  # fmt: skip
VBENCH: tuple[Kind, ...] = (
    Kind("imaging_quality", "vbench", "mean MUSIQ-SPAQ score", 66, 0.01, -0.1, "higher", (0, 100), DINO),
    Kind("subject_consistency", "vbench", "mean cos of DINO", 0.95, 0.002, -0.02, "higher", (0, 1), DINO),
)  # fmt: skip
DRIFTING = {
    "clarity": "vde_clarity",
    "motion_smoothness": "vde_motion",
    "dynamic_degree": "vde_dynamic",
    "subject_consistency": "vde_subject",
    "background_consistency": "vde_background",
}
NAMES = ("a lighthouse at dusk", "horse/walks & <b>trots</b>", "café “été” 夏の海", "market-07", "tide", "snow owl")


def make(
    folder: Path,
    videos: int = 8,
    seed: int = 0,
    segments: int = 10,
    kinds: Sequence[Kind] = KINDS,
    edit: Callable[[int, str, np.ndarray], np.ndarray] | None = None,
    special: bool = True,
) -> Results:
    """`videos` scored ones; with `special`, the last is frozen, the one before begins with clarity 0, one more failed.

    `edit` may change (video, metric name, segment scores). Stills go to `folder`.
    """
    random = np.random.default_rng(seed)
    records = []
    for number in range(videos):
        role = {videos - 1: "frozen", videos - 2: "dark"}.get(number, "") if special and videos > 2 else ""
        records.append(_video(folder, number, random, segments, kinds, role, edit))
    if special:
        reason = "broken <file>.mp4 is damaged (Invalid data found); give an intact copy"
        records.append(VideoRecord(name="broken <file>.mp4", path="broken <file>.mp4", status="failed", reason=reason))
    metrics = tuple(
        MetricRecord(
            key=k.key, name=k.name, tier=k.tier, title=k.name.replace("_", " ").capitalize(), formula=k.formula,
            better=k.better, bounds=k.bounds, model=k.model,
        ) for k in kinds
    )  # fmt: skip
    quantities = _quantities(kinds)
    return Results(
        name=f"fixture {seed}",
        configuration=Configuration(
            profile="release", tier=kinds[-1].tier, segments=segments, weights="linear", robust_weights="uniform",
            remainder="trim",
            lags=(0.25, 0.5, 1, 2, 4, 8, 16, 32),
        ),
        provenance=Provenance(
            created="2026-11-22T22:13:17Z", versions={"blockvid": "0.1.0", "python": "3.11.2", "av": "18.1.0"},
            device="cpu", threads=2, models={"efficientnet-lite0": MODEL}, command="blockvid eval made/ --tier light",
        ),
        metrics=metrics, quantities=quantities, videos=tuple(records), summary=_summary(metrics, quantities, records),
    )  # fmt: skip


def _quantities(kinds: Sequence[Kind]) -> tuple[Quantity, ...]:
    return tuple(
        Quantity(name=DRIFTING[k.name], key=k.key.replace(k.name, DRIFTING[k.name]), metric=k.key)
        for k in kinds
        if k.name in DRIFTING
    )


def _video(
    folder: Path,
    number: int,
    random: np.random.Generator,
    segments: int,
    kinds: Sequence[Kind],
    role: str,
    edit: Callable[[int, str, np.ndarray], np.ndarray] | None,
) -> VideoRecord:
    base = NAMES[number % len(NAMES)] + (f" {number}" if number >= len(NAMES) else "") + ".mp4"
    seconds = 60.0
    strength = random.gamma(2, 0.5)
    curves, scores, parts, lags = {}, {}, {}, {}
    for kind in kinds:
        fine = _curve(kind, random, strength, role)
        cut = fine.reshape(segments, -1).mean(axis=1) if 240 % segments == 0 else fine[:segments]
        if role == "dark" and kind.name == "clarity":
            cut = np.concatenate([[0.0], cut[1:]])
        parts[kind.key] = cut if edit is None else edit(number, kind.name, cut)
        curves[kind.key], scores[kind.key] = fine, float(parts[kind.key].mean())
        if "consistency" in kind.name:
            lags[kind.key] = 1 - strength * 0.05 * np.log1p(np.array([0.25, 0.5, 1, 2, 4, 8, 16, 32]))
    edges = np.linspace(0, seconds, segments + 1)
    return VideoRecord(
        name=base, path=f"made/{base}", status="scored", sha256=hashlib.sha256(base.encode()).hexdigest(),
        prompts=("A <quiet> coast & a lighthouse.", "Night falls.") if number % 2 else (), width=854, height=480,
        frames=960, seconds=seconds, fps=16.0,
        segments=tuple(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)),
        scores=scores, segment_scores={key: _plain(part) for key, part in parts.items()},
        drift={q.key: drift(parts[q.metric]) for q in _quantities(kinds)},
        curves={key: _plain(curve) for key, curve in curves.items()},
        lags={key: _plain(lag) for key, lag in lags.items()},
        colors=tuple(_colour(number, t / 240, strength, role) for t in range(240)), warnings=_warnings(role, strength),
        stills=_stills(folder, number, strength, role, (edges[:-1] + edges[1:]) / 2),
    )  # fmt: skip


def _curve(kind: Kind, random: np.random.Generator, strength: float, role: str) -> np.ndarray:
    x = np.linspace(0, 1, 240)
    if role == "frozen":
        return np.full(240, 0.0 if kind.name == "dynamic_degree" else kind.level)
    wave = 1.5 * kind.noise * np.sin(x * random.uniform(9, 20) + random.uniform(0, 6))
    jitter = kind.noise * random.normal(size=240)
    level = kind.level * (1 + 8 * kind.noise * random.normal())
    made = level * (1 + strength * kind.trend * x ** random.uniform(0.8, 2) + wave + jitter)
    return np.clip(made, *kind.bounds) if kind.bounds else made


def drift(scores: np.ndarray) -> DriftRecord:
    """Of segment scores, as the engine would file it."""
    plain, robust = Drift()(scores), RobustDrift()(scores)
    return DriftRecord(
        vde=plain.vde, per_weight=plain.per_weight, relative=plain.relative, noise_floor=plain.noise_floor,
        flags=plain.flags,
        robust=RobustRecord(
            total=robust.total, drift=robust.drift, slope=robust.slope_relative.value,
            slope_low=robust.slope_relative.low, slope_high=robust.slope_relative.high,
            end_minus_start=robust.end_minus_start, worst_segment=robust.worst.segment if robust.worst else None,
            time_to_failure=robust.time_to_failure, noise_floor=robust.noise_floor, flags=robust.flags,
        ),
    )  # fmt: skip


def _summary(
    metrics: Sequence[MetricRecord], quantities: Sequence[Quantity], videos: Sequence[VideoRecord]
) -> dict[str, SummaryRecord]:
    scored = [v for v in videos if v.status == "scored"]
    found: dict[str, list[Any]] = {m.key: [v.scores[m.key] for v in scored] for m in metrics}
    for q in quantities:
        found[q.key] = [v.drift[q.key].vde for v in scored]
        found[f"{q.key}/weight"] = [v.drift[q.key].per_weight for v in scored]
        found[f"{q.key}/robust"] = [v.drift[q.key].robust.total for v in scored]
    return {key: summarised(np.array([math.nan if x is None else float(x) for x in of])) for key, of in found.items()}


def summarised(values: np.ndarray) -> SummaryRecord:
    """A summary as the record has it."""
    s = summary(values, QUICK)
    return SummaryRecord(
        videos=s.count, missing=s.missing, infinite_share=s.infinite_share, mean=_estimate(s.mean),
        median=_estimate(s.median), trimmed_mean=_estimate(s.trimmed_mean),
    )  # fmt: skip


def again(results: Results, changes: Mapping[str, Any]) -> Results:
    """The same with some fields replaced, checked as when read."""
    return Results.model_validate({**results.model_dump(), **changes})


def _estimate(e: Estimate) -> EstimateRecord:
    return EstimateRecord(value=e.value, low=e.low, high=e.high)


def _plain(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(f"{x:.6g}") for x in values)


def _warnings(role: str, strength: float) -> tuple[Warn, ...]:
    if role == "frozen":
        text = "100 % of its frames repeat the one before; it stands still, so every drift is 0 and means nothing."
        return (Warn(kind="frozen", text=text, loud=True),)
    if role == "dark":
        text = "The first segment scores far below the rest: drift measured from it is an artefact of the opening."
        return (Warn(kind="first-segment", text=text, start=0, end=6),)
    if strength > 1.2:
        return (Warn(kind="saturation", text="Saturation rises by half towards the end.", start=44, end=60),)
    return ()


def _colour(number: int, t: float, strength: float, role: str) -> tuple[int, int, int]:
    t = 0.0 if role == "frozen" else t
    light = 0.38 + 0.16 * strength * t - (0.34 * max(0, 1 - t * 10) if role == "dark" else 0)
    r, g, b = colorsys.hls_to_rgb((0.56 + 0.13 * number + 0.05 * t) % 1, min(light, 0.9), min(0.25 + 0.3 * t, 1))
    return round(r * 255), round(g * 255), round(b * 255)


def _stills(folder: Path, number: int, strength: float, role: str, times: np.ndarray) -> tuple[Still, ...]:
    place = folder / "stills" / f"{number:03d}"
    place.mkdir(parents=True, exist_ok=True)
    stills = []
    for index, seconds in enumerate(times):
        t = 0.0 if role == "frozen" else index / max(len(times) - 1, 1)
        sky = _colour(number, t, strength, role)
        picture = Image.new("RGB", (240, 135), sky)
        pen = ImageDraw.Draw(picture)
        pen.rectangle((0, 92, 240, 135), fill=tuple(c // 2 for c in sky))
        pen.ellipse((20 + 150 * t, 18, 58 + 150 * t, 56), fill=tuple(min(c + 80, 255) for c in sky))
        pen.polygon([(150, 110), (158, 40), (170, 40), (178, 110)], fill=(240, 236, 226))
        pen.rectangle((155, 28, 173, 40), fill=(150, 40, 30))
        picture.filter(ImageFilter.GaussianBlur(2.5 * strength * t)).save(place / f"{index:02d}.jpg", quality=80)
        stills.append(Still(seconds=float(seconds), file=f"stills/{number:03d}/{index:02d}.jpg"))
    return tuple(stills)
