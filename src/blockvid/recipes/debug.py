"""A run of a minute that learns something: for trying the machinery, on any machine and any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from blockvid.attention.policies import Window
from blockvid.batch import Batch
from blockvid.errors import at_least_one
from blockvid.model.device import pick_device
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.recipes.previews import ProbeLoss
from blockvid.training.export import export
from blockvid.training.loop import Cadence, Loop, Plan, losses_of
from blockvid.training.objectives import FlowMatching
from blockvid.training.objectives.visibility import Causal
from blockvid.training.optimisation import AdamW
from blockvid.training.sharding import Mesh, Sharding, launched, place

CHANNELS, SIZE, WORDS, PROMPTS, TEXT = 4, 4, 3, 6, 16


@dataclass(frozen=True)
class Patterns:
    """Batches of still patterns that move by a cell a chunk; each prompt is one pattern. Nothing is read from disk."""

    batch_size: int
    chunks: int
    first: int = 0
    """Added to every step: sources of different ranges share no batch."""

    def batch(self, step: int) -> Batch:
        """A pure function of the step."""
        made = torch.Generator().manual_seed(0)
        patterns = torch.randn(PROMPTS, CHANNELS, SIZE, SIZE, generator=made)
        words = torch.randn(PROMPTS, WORDS, TEXT, generator=made)
        drawn = torch.Generator().manual_seed(1 + self.first + step)
        prompt = torch.randint(PROMPTS, (self.batch_size,), generator=drawn)
        shown = torch.stack([patterns[prompt].roll(c, dims=-1) for c in range(self.chunks)], dim=2)
        latents = shown + 0.05 * torch.randn(shown.shape, generator=drawn)
        tokens = words[prompt, None].expand(-1, self.chunks, -1, -1)
        frames = (1,) * self.chunks
        return Batch(latents, frames, TextContext(tokens, frames), tokens.mean(2), torch.ones_like(latents[:, :1]))

    @property
    def empty(self) -> TextContext:
        """Zeros."""
        return TextContext(torch.zeros(1, 1, WORDS, TEXT), (1,))


@dataclass(frozen=True)
class DebugRun:
    """A tiny transformer on made patterns."""

    steps: int = 60
    """Length of the run."""
    batch: int = 8
    """Samples in a microbatch."""
    microbatches: int = 1
    """Of a step, over all ranks."""
    chunks: int = 3
    lr: float = 3e-3
    seed: int = 0
    device: str = "auto"
    dp_replicate: int = 1
    """Copies of the model over ranks (torchrun)."""
    dp_shard: int | None = None
    """Ranks that share one copy; None: all that are left."""
    sp: int = 1
    """Ranks that share the tokens of a sample."""
    save: int = 20
    """Steps between checkpoints and measures on unseen data."""
    log: int = 10

    def __post_init__(self) -> None:
        at_least_one(self, "steps", "batch", "microbatches", "chunks", "save", "log")

    def __call__(self, out: Path, stop: Callable[[], bool] = lambda: False) -> None:
        """Run to the end or until `stop`; over an earlier `out` it continues. Writes out/transformer."""
        with launched(Mesh(self.dp_replicate, self.dp_shard, self.sp), pick_device(self.device)) as world:
            networks = {"model": self.model()}
            place(networks, world, Sharding())
            source, unseen = Patterns(self.batch, self.chunks), Patterns(self.batch, self.chunks, first=1_000_000)
            flow = FlowMatching(visibility=Causal(Window()), shift=1.0)
            plan = Plan(self.steps, self.microbatches, AdamW(self.lr), ema=0.9, seed=self.seed)
            config = {"batch": self.batch, "chunks": self.chunks}
            cadence = Cadence(self.save, self.log, preview=self.save)
            losses = losses_of(flow, source, networks, world.device)
            loop = Loop(networks, losses, plan, out, world, config, cadence)
            probe = ProbeLoss(unseen, True, world, out / "probe.jsonl")
            if loop.step == 0:
                probe(0, networks["model"])
            loop.run(on_save=lambda _, network: export(network, out, world), preview=probe, stop=stop)

    def rows(self) -> list[tuple[str, str]]:
        """What `--dry-run` prints."""
        parameters = sum(p.numel() for p in self.model().parameters())
        tokens = self.batch * self.chunks * SIZE * SIZE
        return [
            ("model", f"tiny; model {parameters:,} parameters"),
            ("step", f"{self.microbatches} x {self.batch} samples of {self.chunks} chunks, {tokens:,} tokens each"),
            ("run", f"{self.steps} steps, float32, lr {self.lr:g}"),
        ]

    def model(self) -> BlockDiT:
        """Freshly initialised."""
        torch.manual_seed(self.seed)
        model = BlockDiT(
            patch_size=(1, 1, 1), in_channels=CHANNELS, out_channels=CHANNELS, num_attention_heads=2,
            attention_head_dim=16, text_dim=TEXT, freq_dim=32, ffn_dim=64, num_layers=2,
        )  # fmt: skip
        model.initialize()
        return model


def debug() -> DebugRun:
    """Sixty steps, about ten seconds."""
    return DebugRun()
