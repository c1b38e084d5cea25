"""Attention on a CPU: torch's fused kernel against the explicit one that blockvid uses for bfloat16.

The shapes are the storybook's: a chunk's tokens and its memory (4 videos, 480 queries, 1500 keys), and the tokens of
stills and their prompts, of which a third is padding (128 stills, 60 queries, 24 keys); 4 heads of 64 channels. Kernels
take turns within every round, so that a busy machine slows all of them; the fastest and the median round are shown.

    .venv/bin/python benchmarks/attention.py
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from blockvid.attention.attend import attention

HEADS, CHANNELS, ROUNDS = 4, 64, 30

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Shape:
    """Samples, queries and keys of each, and how many of those are seen."""

    name: str
    batch: int
    queries: int
    keys: int
    seen: int

    def inputs(self, dtype: torch.dtype) -> list[Tensor]:
        """q, k and v that want gradients."""
        generator = torch.Generator().manual_seed(0)
        shapes = [(self.batch, tokens, HEADS, CHANNELS) for tokens in (self.queries, self.keys, self.keys)]
        return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]

    def mask(self) -> Tensor | None:
        """Which keys are seen; None if all are."""
        return None if self.seen == self.keys else (torch.arange(self.keys) < self.seen).repeat(self.batch, 1, 1, 1)


SHAPES = (Shape("chunk and memory", 4, 480, 1500, 1500), Shape("stills and prompts", 128, 60, 24, 16))


def fused(
    q: Float[Tensor, "b s heads d"],
    k: Float[Tensor, "b z heads d"],
    v: Float[Tensor, "b z heads d"],
    mask: Tensor | None,
) -> Float[Tensor, "b s heads d"]:
    """scaled_dot_product_attention, which picks its own kernel."""
    return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=mask).transpose(1, 2)


def milliseconds(kernel: Kernel, tensors: list[Tensor], mask: Tensor | None, backward: bool) -> float:
    """One call, timed."""
    q, k, v = tensors
    began = time.perf_counter()
    with torch.set_grad_enabled(backward):
        out = kernel(q, k, v, mask)
        if backward:
            torch.autograd.grad(out.sum(), tensors)
    return 1000 * (time.perf_counter() - began)


def processor() -> str:
    """Its name and the matrix instructions that decide this comparison."""
    name = platform.processor() or platform.machine()
    described = Path("/proc/cpuinfo")
    if described.exists():
        lines = described.read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    has = [what for what in ("amx_bf16", "avx512_bf16") if torch.cpu.get_capabilities().get(what)]
    return f"{name} with {' and '.join(has) or 'no bfloat16 instructions'}"


def main() -> None:
    """Print the tables that benchmarks/attention.md keeps."""
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, torch {torch.__version__}, {torch.get_num_threads()} threads, {processor()}\n"
    )
    for shape in SHAPES:
        print("\n".join(table(shape)), "\n")


def table(shape: Shape) -> list[str]:
    """Every kernel at this shape."""
    rows: list[tuple[str, Kernel, list[Tensor]]] = [
        ("fused, float32", fused, shape.inputs(torch.float32)),
        ("fused, bfloat16", fused, shape.inputs(torch.bfloat16)),
        ("blockvid, bfloat16", attention, shape.inputs(torch.bfloat16)),
    ]
    times: dict[tuple[str, bool], list[float]] = {}
    for turn in range(ROUNDS + 3):
        for name, kernel, tensors in rows:
            for backward in (False, True):
                spent = milliseconds(kernel, tensors, shape.mask(), backward)
                if turn >= 3:  # the first rounds allocate
                    times.setdefault((name, backward), []).append(spent)
    lines = [
        f"| {shape.name} | forward, ms: fastest | median | forward + backward, ms: fastest | median |",
        "|---|---|---|---|---|",
    ]
    for name, _, _ in rows:
        columns = [f(times[name, backward]) for backward in (False, True) for f in (min, statistics.median)]
        lines.append(" ".join(["|", " | ".join([name, *(f"{value:.1f}" for value in columns)]), "|"]))
    return lines


if __name__ == "__main__":
    main()
