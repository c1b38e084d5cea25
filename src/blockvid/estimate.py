"""What a generation will take, before it begins: frames, tokens, memory and time for this model on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from blockvid.attention.policies import KeyValuePolicy
from blockvid.model.load import Models
from blockvid.pipeline import Settings
from blockvid.storyboard import Chunk, Storyboard

RUNTIME_BYTES = 450e6  # Python, torch and the libraries, resident
ATTENTION_SHARE = 0.35  # of the matrix product rate that attention and pointwise work reach, over the whole forward


@dataclass(frozen=True)
class Estimate:
    """Sizes are exact; bytes and seconds are predictions from operation counts and a short measurement."""

    frames: int
    seconds: float
    fps: float
    size: tuple[int, int]
    chunks: int
    steps: int
    tokens_per_chunk: int
    most_attended: int
    calls: int
    operations: float
    peak_bytes: float
    expected_seconds: float
    where: str

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each line of a report."""
        width, height = self.size
        minutes = self.expected_seconds / 60
        return [
            ("video", f"{self.frames} frames, {self.seconds:g} s at {self.fps:g} fps, {width}x{height}"),
            ("chunks", f"{self.chunks}, {self.steps} steps each, {self.calls} transformer calls in all"),
            ("tokens", f"{self.tokens_per_chunk} in the largest chunk, attending to at most {self.most_attended}"),
            ("peak memory", f"about {self.peak_bytes / 1e9:.1f} GB"),
            ("time", f"about {minutes:.1f} min ({self.operations / 1e12:.1f} TFLOP) on {self.where}"),
        ]


def estimate(models: Models, storyboard: Storyboard, settings: Settings) -> Estimate:
    """The cost of `storyboard` under resolved `settings`."""
    geometry, dit = models.geometry, models.dit
    assert settings.steps is not None and settings.guidance is not None
    chunks = storyboard.chunks(geometry)
    scales = {settings.guidance if chunk.guidance is None else chunk.guidance for chunk in chunks}
    rows = 1 if scales == {1} else 2
    n, dim = geometry.tokens_per_frame, dit.config["num_attention_heads"] * dit.config["attention_head_dim"]
    layers, element = dit.config["num_layers"], dit.dtype.itemsize
    spans = [_attended(chunks, chunk, settings.policy) * n for chunk in chunks]
    weights = sum(p.numel() for p in dit.blocks.parameters())
    per_call = [
        2 * weights * c.frames * n + 4 * layers * dim * c.frames * n * z for c, z in zip(chunks, spans, strict=True)
    ]
    calls = len(chunks) * (settings.steps + 1)
    operations = rows * (settings.steps + 1) * sum(per_call)
    largest, most = max(c.frames for c in chunks) * n, max(spans)
    kept = 2 * rows * layers * dim * element * (2 * most)  # remembered, and again rotated as the context
    live = (
        rows * largest * element * (12 * dim + dit.config["ffn_dim"])
        + 2 * rows * dit.config["num_attention_heads"] * largest * most * element
    )
    pixels = 3 * 4 * geometry.width * geometry.height * max(c.frames for c in chunks) * geometry.temporal_stride
    resident = sum(p.numel() * p.element_size() for p in dit.parameters())
    device = next(dit.parameters()).device
    return Estimate(
        frames=storyboard.frames(geometry),
        seconds=storyboard.seconds,
        fps=geometry.fps,
        size=(geometry.width, geometry.height),
        chunks=len(chunks),
        steps=settings.steps,
        tokens_per_chunk=largest,
        most_attended=most,
        calls=calls,
        operations=operations,
        peak_bytes=RUNTIME_BYTES + resident + kept + live + 12 * pixels,
        expected_seconds=operations / (ATTENTION_SHARE * product_rate(device, dit.dtype, dim)),
        where=f"{device.type}, {torch.get_num_threads()} threads, {str(dit.dtype).removeprefix('torch.')}",
    )


def _attended(chunks: tuple[Chunk, ...], chunk: Chunk, policy: KeyValuePolicy) -> int:
    """Latent frames that a chunk's tokens see, itself included."""
    return chunk.frames + sum(chunks[index].frames for index in policy.recall(chunk.index))


def product_rate(device: torch.device, dtype: torch.dtype, dim: int) -> float:
    """Operations a second of a matrix product of the model's shape, measured for a fraction of a second."""
    a, b = torch.randn(1024, dim, device=device, dtype=dtype), torch.randn(dim, 4 * dim, device=device, dtype=dtype)
    (a @ b).sum().item()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < 0.2:
        for _ in range(4):
            c = a @ b
        c.sum().item()
        done += 4
    return done * 2 * a.shape[0] * dim * 4 * dim / (time.perf_counter() - began)
