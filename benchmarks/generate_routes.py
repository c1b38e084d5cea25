"""Ways to a long video with the same transformer weights: blockvid's, and two of diffusers'. Latents only.

Every route reads the same text (all of its slots, no mask), takes the same number of solver steps and calls a
transformer of the same shape; what differs is what is computed again for every new latent frame.
"""

from __future__ import annotations

import functools
import inspect
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import (
    AnyFlowFARPipeline,
    AnyFlowFARTransformer3DModel,
    FlowMapEulerDiscreteScheduler,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
)
from diffusers.models import attention_dispatch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_mask

from blockvid.attention.attend import Cached, Full
from blockvid.attention.cache import ChunkMemory, KVCache, MemoryWriter
from blockvid.attention.policies import Window, recalls
from blockvid.attention.rope import grid_positions
from blockvid.flow import sigma_grid
from blockvid.geometry import Geometry
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.model.load import Models
from blockvid.sampling.denoiser import Guided, VelocityDenoiser
from blockvid.sampling.noise import Start, base_noise
from blockvid.sampling.plans import Chunkwise
from blockvid.sampling.sampler import Condition, Finished, sample
from blockvid.sampling.solvers import UniPC

PAST = 2  # chunks of context
OVERLAP = 5  # latent frames, 17 pixel frames: the recommended overlap of SkyReels-V2
EXTRA_OF_FAR = ("far_patch_embedding.", "condition_embedder.delta_embedder.")


@dataclass(frozen=True)
class Job:
    """One video to time: `text` has the prompt's row, and below it the negative prompt's if there is guidance."""

    models: Models
    text: Float[Tensor, "rows l d"]
    chunks: int
    steps: int
    guidance: float

    @property
    def frames(self) -> list[int]:
        """Latent frames of each chunk; the first one carries the image latent."""
        size = self.models.geometry.chunk_frames
        return [size + 1] + [size] * (self.chunks - 1)

    @property
    def pixel_frames(self) -> int:
        return self.models.geometry.pixel_frames(sum(self.frames))


@dataclass(frozen=True)
class Piece:
    """A chunk or window as it was made: its time, its new latent frames, and whether its context was complete."""

    seconds: float
    frames: int
    steady: bool


class Laps:
    """Seconds since the last lap, from construction on."""

    def __init__(self) -> None:
        self.last = time.perf_counter()
        self.seconds: list[float] = []

    def lap(self) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now

    def callback(self, every: Callable[[], int]) -> Callable[[Any, int, Any, dict[str, Tensor]], dict[str, Tensor]]:
        """diffusers' callback at the end of a step; a lap ends with a window's last step, the `every()`-th."""

        def at_step_end(_pipe: Any, step: int, _timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            if step == every() - 1:
                self.lap()
            return tensors

        return at_step_end


def grid(geometry: Geometry, frames: int) -> Tensor:
    """Token positions of a chunk."""
    return grid_positions(
        frames, geometry.latent_height // geometry.patch[1], geometry.latent_width // geometry.patch[2]
    )


def blockvid(job: Job) -> list[Piece]:
    """Chunk by chunk with a KV cache of the last two chunks."""
    models, frames = job.models, job.frames
    g, rope = models.geometry, models.dit.rope
    cache = KVCache(recalls(Window(PAST), torch.eye(job.chunks)), rope, dtype=models.dit.dtype)
    denoiser = Guided(VelocityDenoiser(models.dit), job.guidance)

    def begin(chunk: int) -> Start:
        shape = (1, g.latent_channels, frames[chunk], g.latent_height, g.latent_width)
        return Start.after(None, base_noise(0, chunk, shape))

    def condition(chunks: tuple[int, ...]) -> Condition:
        (chunk,) = chunks
        text = TextContext(job.text[:, None].to(models.dit.dtype), (frames[chunk],))
        start, positions = sum(frames[:chunk]), grid(g, frames[chunk])
        writer = MemoryWriter(ChunkMemory(chunk, start, frames[chunk], positions, ()), rope, torch.Generator())
        return Condition(denoiser, text, Cached(rope, cache.recall(chunk, start), positions), writer)

    laps, levels = Laps(), sigma_grid(job.steps, models.defaults.shift)
    for event in sample(Chunkwise(), UniPC(), levels, range(job.chunks), begin, condition, cache.append):
        if isinstance(event, Finished):
            laps.lap()
    return [Piece(s, n, i >= PAST) for i, (s, n) in enumerate(zip(laps.seconds, frames, strict=True))]


def skyreels(job: Job, overlap: int) -> list[Piece]:
    """Windows as long as a chunk with its context, denoised whole; `overlap` latent frames of each are known."""
    g = job.models.geometry
    window = sum(job.frames[: PAST + 1])
    pipe = SkyReelsV2DiffusionForcingPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        transformer=skyreels_transformer(job.models.dit),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=job.models.defaults.shift
        ),
    )
    pipe.set_progress_bar_config(disable=True)
    laps = Laps()
    pipe(
        prompt=None,
        prompt_embeds=job.text[:1],
        negative_prompt_embeds=job.text[1:] if len(job.text) > 1 else None,
        height=g.height,
        width=g.width,
        num_frames=job.pixel_frames,
        base_num_frames=g.pixel_frames(window),
        overlap_history=g.pixel_frames(overlap),
        num_inference_steps=job.steps,
        guidance_scale=job.guidance,
        output_type="latent",
        callback_on_step_end=laps.callback(lambda: pipe.num_timesteps),
    )
    total, made = sum(job.frames), window
    pieces = [Piece(laps.seconds[0], window, False)]
    for seconds in laps.seconds[1:]:
        new = min(window - overlap, total - made)
        pieces.append(Piece(seconds, new, new == window - overlap))
        made += new
    return pieces


def far(job: Job, compressed_patch: tuple[int, int, int], fused: bool) -> list[Piece]:
    """AnyFlow-FAR: a cache of two whole chunks, and of all earlier ones in patches of `compressed_patch`."""
    if fused:
        use_fused_attention()
    g = job.models.geometry
    pipe = AnyFlowFARPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        transformer=far_transformer(job.models.dit, compressed_patch),
        scheduler=FlowMapEulerDiscreteScheduler(shift=job.models.defaults.shift),
    )
    pipe.set_progress_bar_config(disable=True)
    laps = Laps()
    pipe(
        prompt_embeds=job.text[:1],
        negative_prompt_embeds=job.text[1:] if len(job.text) > 1 else None,
        height=g.height,
        width=g.width,
        num_frames=job.pixel_frames,
        num_inference_steps=job.steps,
        guidance_scale=job.guidance,
        output_type="latent",
        chunk_partition=job.frames,
        callback_on_step_end=laps.callback(lambda: job.steps),
    )
    return [Piece(s, n, i >= PAST) for i, (s, n) in enumerate(zip(laps.seconds, job.frames, strict=True))]


def skyreels_transformer(dit: BlockDiT) -> SkyReelsV2Transformer3DModel:
    """The same weights in diffusers' class, loaded by its own `from_pretrained`."""
    config = {name: value for name, value in dit.config.items() if not name.startswith("_")}
    peer = SkyReelsV2Transformer3DModel(**config)
    peer.load_state_dict(dit.state_dict(), strict=True)
    return as_loaded(peer, dit.dtype)


def far_transformer(dit: BlockDiT, compressed_patch: tuple[int, int, int]) -> AnyFlowFARTransformer3DModel:
    """The same weights, with random ones in the modules that only this class has."""
    torch.manual_seed(0)
    accepted = inspect.signature(AnyFlowFARTransformer3DModel.__init__).parameters
    peer = AnyFlowFARTransformer3DModel(
        **{name: value for name, value in dit.config.items() if name in accepted},
        compressed_patch_size=compressed_patch,
        full_chunk_limit=PAST + 1,
    )
    missing, unexpected = peer.load_state_dict(dit.state_dict(), strict=False)
    if unexpected or not all(name.startswith(EXTRA_OF_FAR) for name in missing):
        raise RuntimeError(f"the two classes differ in more than {EXTRA_OF_FAR}: {missing} {unexpected}")
    return as_loaded(peer, dit.dtype)


def as_loaded(network: Any, dtype: torch.dtype) -> Any:
    """The network in `dtype` but for what diffusers keeps in float32, ready to run."""
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        return type(network).from_pretrained(folder, torch_dtype=dtype).eval().requires_grad_(False)


def use_fused_attention() -> None:
    """Replace, for this process, the flex attention that diffusers calls by torch's fused kernel.

    Uncompiled, as diffusers runs it, flex attention materialises float32 scores and calls its mask for each. The fused
    kernel gives the same output; the favour is to the peer.
    """

    @functools.cache
    def dense(mask: BlockMask) -> Tensor:
        return create_mask(mask.mask_mod, None, None, *mask.seq_lengths, device="cpu")

    def fused(
        query: Tensor, key: Tensor, value: Tensor, block_mask: BlockMask | None, scale: float | None, **_ignored: Any
    ) -> Tensor:
        visible = None if block_mask is None else dense(block_mask)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=visible, scale=scale)

    attention_dispatch.flex_attention.flex_attention = fused


@torch.no_grad()
def largest_difference(models: Models, text: Float[Tensor, "rows l d"]) -> float:
    """Of the velocities of blockvid's and diffusers' transformer over one window, in standard deviations."""
    g = models.geometry
    frames = (PAST + 1) * g.chunk_frames + 1
    generator = torch.Generator().manual_seed(0)
    shape = (1, g.latent_channels, frames, g.latent_height, g.latent_width)
    latents, levels = torch.randn(shape, generator=generator), torch.randint(1000, (1, frames), generator=generator)
    dtype = models.dit.dtype
    context = TextContext(text[:1, None].to(dtype), (frames,))
    ours = models.dit(latents.to(dtype), levels.float(), context, Full(models.dit.rope, grid(g, frames)))
    peer = skyreels_transformer(models.dit)
    (theirs,) = peer(latents.to(dtype), levels, text[:1].to(dtype), enable_diffusion_forcing=True, return_dict=False)
    return float((ours - theirs).abs().max() / theirs.std())


ROUTES: dict[str, Callable[[Job], list[Piece]]] = {
    "blockvid": blockvid,
    "skyreels, recommended overlap": lambda job: skyreels(job, OVERLAP),
    "skyreels, overlap of two chunks": lambda job: skyreels(job, sum(job.frames[:PAST])),
    "anyflow-far, as released": lambda job: far(job, (1, 4, 4), fused=False),
    "anyflow-far, fused attention": lambda job: far(job, (1, 4, 4), fused=True),
    "anyflow-far, fused attention, least context": lambda job: far(job, whole_frame(job), fused=True),
}


def whole_frame(job: Job) -> tuple[int, int, int]:
    """The largest compressed patch: older frames are one token each, the nearest there is to none."""
    g = job.models.geometry
    return (1, g.latent_height, g.latent_width)
