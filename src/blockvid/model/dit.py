"""BlockDiT: the diffusion transformer of Wan 2.1, with noise per latent frame and text per chunk.

Parameter names and configuration keys are those of diffusers' `WanTransformer3DModel` and
`SkyReelsV2Transformer3DModel`, so their folders load here strictly. What differs is the signature: what a token sees
is an argument (`Attend`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from blockvid.attention.attend import Attend, attention
from blockvid.attention.rope import Rope, grid_positions
from blockvid.errors import InputError


@dataclass(frozen=True)
class TextContext:
    """Text encoder states, one row per chunk of the forward.

    `frames` says how many consecutive latent frames read each row; None for `mask` lets every slot be seen, as Wan was
    trained on its zero padding.
    """

    tokens: Float[Tensor, "b n l d"]
    frames: tuple[int, ...]
    mask: Bool[Tensor, "b n l"] | None = None

    def to(self, device: torch.device) -> TextContext:
        """The same on `device`."""
        return self._each(self.frames, lambda x: x.to(device))

    def chunks(self, start: int, stop: int) -> TextContext:
        """The chunks from `start` to before `stop`."""
        return self._each(self.frames[start:stop], lambda x: x[:, start:stop])

    def spread(self, rows: int, frames: tuple[int, ...]) -> TextContext:
        """This one row of one chunk, for every chunk of `frames` latent frames of every row."""
        return self._each(frames, lambda x: x.expand(rows, len(frames), *x.shape[2:]))

    def above(self, other: TextContext) -> TextContext:
        """These rows, then those of `other`, whose chunks are the same; as `without` of lengths and masks."""
        return self._both(other, self.frames, lambda ours, theirs: torch.cat((ours, theirs)))

    def before(self, other: TextContext) -> TextContext:
        """Of each row these chunks, then those of `other`; as `without` of lengths and masks."""
        return self._both(other, self.frames + other.frames, lambda ours, theirs: torch.cat((ours, theirs), 1))

    def without(self, drop: Bool[Tensor, "b n"], empty: TextContext) -> TextContext:
        """These prompts, where `drop` the one of `empty` (one row, one chunk); both padded to the longer.

        A mask is left where both have one. Raises InputError if they differ in length and either has none.
        """

        def chosen(ours: Tensor, none: Tensor) -> Tensor:
            return torch.where(drop.reshape(*drop.shape, *[1] * (ours.ndim - 2)), none, ours)

        return self._both(empty, self.frames, chosen)

    def _padded(self, slots: int) -> TextContext:
        """The same in `slots` slots a chunk. Raises InputError if there is no mask: padding would be read."""
        missing = slots - self.tokens.shape[2]
        if not missing:
            return self
        if self.mask is None:
            raise InputError(
                f"prompts of {slots - missing} and {slots} slots without a mask; pad them alike or give masks"
            )
        return TextContext(F.pad(self.tokens, (0, 0, 0, missing)), self.frames, F.pad(self.mask, (0, missing)))

    def _each(self, frames: tuple[int, ...], change: Callable[[Tensor], Tensor]) -> TextContext:
        """`change` of the tokens, and of the mask if there is one."""
        return TextContext(change(self.tokens), frames, None if self.mask is None else change(self.mask))

    def _both(
        self, other: TextContext, frames: tuple[int, ...], join: Callable[[Tensor, Tensor], Tensor]
    ) -> TextContext:
        """`join` of the tokens of both, padded alike, and of their masks if both have one."""
        slots = max(self.tokens.shape[2], other.tokens.shape[2])
        a, b = self._padded(slots), other._padded(slots)
        mask = None if a.mask is None or b.mask is None else join(a.mask, b.mask)
        return TextContext(join(a.tokens, b.tokens), frames, mask)


def sinusoid(timestep: Float[Tensor, "*shape"], channels: int) -> Float[Tensor, "*shape channels"]:
    """[cos | sin] of the timestep (0..1000) at `channels`/2 frequencies 10000^(-i / (channels/2)), in float64."""
    half = channels // 2
    rates = 10000.0 ** -(torch.arange(half, dtype=torch.float64, device=timestep.device) / half)
    angle = timestep.double()[..., None] * rates
    return torch.cat((angle.cos(), angle.sin()), dim=-1).float()


class LayerNorm32(nn.LayerNorm):
    """Layer normalisation computed and returned in float32."""

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input.float(), self.normalized_shape, _float(self.weight), _float(self.bias), self.eps)


def _float(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.float()


class TwoLayer(nn.Module):
    """linear_2(act(linear_1(x))): the time and text embedders, under diffusers' names."""

    def __init__(self, d_in: int, d: int, act: nn.Module) -> None:
        super().__init__()
        self.linear_1, self.linear_2, self.act = nn.Linear(d_in, d), nn.Linear(d, d), act

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(self.act(self.linear_1(x)))


class Projection(nn.Module):
    """A linear layer followed by an activation, named `proj` as in diffusers' feed-forwards."""

    def __init__(self, d_in: int, d_out: int, act: nn.Module) -> None:
        super().__init__()
        self.proj, self.act = nn.Linear(d_in, d_out), act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.proj(x))


class FeedForward(nn.Module):
    """Two linear layers, under diffusers' names net.0.proj and net.2."""

    def __init__(self, d_in: int, hidden: int, d_out: int, act: nn.Module) -> None:
        super().__init__()
        self.net = nn.ModuleList([Projection(d_in, hidden, act), nn.Identity(), nn.Linear(hidden, d_out)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class Conditions(nn.Module):
    """Timestep and text to the width of the model."""

    def __init__(self, dim: int, freq_dim: int, text_dim: int) -> None:
        super().__init__()
        self.freq_dim = freq_dim
        self.time_embedder = TwoLayer(freq_dim, dim, nn.SiLU())
        self.time_proj = nn.Linear(dim, 6 * dim)
        self.text_embedder = TwoLayer(text_dim, dim, nn.GELU("tanh"))

    def time(
        self, timestep: Float[Tensor, "b f"], dtype: torch.dtype
    ) -> tuple[Float[Tensor, "b f d"], Float[Tensor, "b f six d"]]:
        """The embedding e that modulates the head, and its projection e0 that modulates every block."""
        e = self.time_embedder(sinusoid(timestep, self.freq_dim).to(self.time_embedder.linear_1.weight.dtype)).to(dtype)
        return e, self.time_proj(F.silu(e)).unflatten(-1, (6, -1))


class Attention(nn.Module):
    """Projections with RMS qk-norm over all heads at once; what is attended is decided elsewhere."""

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim), nn.Identity()])
        self.norm_q, self.norm_k = nn.RMSNorm(dim, eps=eps), nn.RMSNorm(dim, eps=eps)

    def qkv(self, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised q of `x`, normalised k and plain v of `source`, split into heads."""
        q, k, v = _rms(self.norm_q, self.to_q(x)), _rms(self.norm_k, self.to_k(source)), self.to_v(source)
        return tuple(y.to(v.dtype).unflatten(-1, (self.heads, -1)) for y in (q, k, v))  # type: ignore[return-value]

    def out(self, y: Float[Tensor, "b s heads d"]) -> Float[Tensor, "b s dim"]:
        return self.to_out[0](y.flatten(-2))


def _rms(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    return F.rms_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), norm.eps)


class Block(nn.Module):
    """Self-attention, cross-attention and feed-forward, modulated per latent frame (adaLN with a shared projection)."""

    def __init__(self, dim: int, ffn_dim: int, heads: int, cross_attn_norm: bool, eps: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm32(dim, eps, elementwise_affine=False)
        self.attn1 = Attention(dim, heads, eps)
        self.norm2 = LayerNorm32(dim, eps) if cross_attn_norm else nn.Identity()
        self.attn2 = Attention(dim, heads, eps)
        self.norm3 = LayerNorm32(dim, eps, elementwise_affine=False)
        self.ffn = FeedForward(dim, ffn_dim, dim, nn.GELU("tanh"))
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(
        self, x: Tensor, e0: Float[Tensor, "b f six d"], text: TextContext, layer: int, attend: Attend
    ) -> Tensor:
        """`x` is (b f n d): modulation broadcasts over the n tokens of a frame instead of being stored per token."""
        mod = self.scale_shift_table.float() + e0.float()
        shift1, scale1, gate1, shift2, scale2, gate2 = (mod[:, :, i, None] for i in range(6))
        y = (self.norm1(x) * (1 + scale1) + shift1).type_as(x)
        y = self.attn1.out(attend(layer, *self.attn1.qkv(y.flatten(1, 2), y.flatten(1, 2)))).view_as(x)
        x = (x.float() + y * gate1).type_as(x)
        x = x + self.read(self.norm2(x.float()).type_as(x), text)
        y = self.ffn((self.norm3(x) * (1 + scale2) + shift2).type_as(x))
        return (x.float() + y.float() * gate2).type_as(x)

    def read(self, x: Float[Tensor, "b f n d"], text: TextContext) -> Float[Tensor, "b f n d"]:
        """Cross-attention of each chunk's tokens to that chunk's text alone."""
        parts = []
        for row, frames in enumerate(x.split(text.frames, dim=1)):
            q, k, v = self.attn2.qkv(frames.flatten(1, 2), text.tokens[:, row])
            mask = None if text.mask is None else text.mask[:, row, None, None, :]
            parts.append(self.attn2.out(attention(q, k, v, mask)).view_as(frames))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


class BlockDiT(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Predicts the velocity eps - x0 of noisy latents.

    Configuration keys are diffusers'. Those that select image conditioning (`image_dim`, `added_kv_proj_dim`,
    `pos_embed_seq_len`) must be None: first-frame guidance is a clean latent frame here. `rope_max_seq_len` and
    `num_frame_per_block` are read from files and have no effect: positions and masks are the caller's.
    """

    _supports_gradient_checkpointing = True
    _skip_layerwise_casting_patterns = ("patch_embedding", "condition_embedder", "norm")
    _no_split_modules = ("Block",)
    # A list, for diffusers wraps anything else in one and then keeps nothing.
    _keep_in_fp32_modules = ["time_embedder", "scale_shift_table", "norm1", "norm2", "norm3"]  # noqa: RUF012
    _repeated_blocks = ("Block",)

    @register_to_config
    def __init__(
        self,
        patch_size: Sequence[int] = (1, 2, 2),  # a list, when it comes from a config.json
        num_attention_heads: int = 12,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 8960,
        num_layers: int = 30,
        cross_attn_norm: bool = True,
        qk_norm: str = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,  # noqa: ARG002
        pos_embed_seq_len: int | None = None,
        inject_sample_info: bool = False,
        num_frame_per_block: int = 1,  # noqa: ARG002
    ) -> None:
        super().__init__()
        if (
            qk_norm != "rms_norm_across_heads"
            or image_dim
            or added_kv_proj_dim
            or pos_embed_seq_len
            or patch_size[0] != 1
        ):
            raise ValueError(
                "only text-to-video Wan configurations with qk_norm rms_norm_across_heads and patch (1, p, p)"
            )
        dim = num_attention_heads * attention_head_dim
        self.rope = Rope(attention_head_dim)
        _, ph, pw = patch_size
        self.patch_embedding = nn.Conv3d(in_channels, dim, kernel_size=(1, ph, pw), stride=(1, ph, pw))
        self.condition_embedder = Conditions(dim, freq_dim, text_dim)
        self.blocks = nn.ModuleList(
            Block(dim, ffn_dim, num_attention_heads, cross_attn_norm, eps) for _ in range(num_layers)
        )
        self.norm_out = LayerNorm32(dim, eps, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, out_channels * math.prod(patch_size))
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        self.fps_index = 1
        """The frame rate that SkyReels-V2 embeds: 0 for 16 a second, 1 for others. Other models embed none."""
        if inject_sample_info:
            self.fps_embedding = nn.Embedding(2, dim)
            self.fps_projection = FeedForward(dim, dim, 6 * dim, nn.SiLU())
        self.gradient_checkpointing = False

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.config["num_attention_heads"] * self.config["attention_head_dim"]

    def cells(self, h: int, w: int) -> tuple[int, int]:
        """Rows and columns of tokens of a latent frame of `h` x `w`."""
        _, ph, pw = self.config["patch_size"]
        return h // ph, w // pw

    def positions(self, frames: int, h: int, w: int, start: int = 0) -> Int[Tensor, "s 3"]:
        """(t, h, w) of the tokens of latent frames of `h` x `w`, in their order, t from `start` on; on the CPU."""
        return grid_positions(frames, *self.cells(h, w), start)

    def forward(
        self,
        latents: Float[Tensor, "b c f h w"],
        timestep: Float[Tensor, "b f"],
        text: TextContext,
        attend: Attend,
    ) -> Float[Tensor, "b c f h w"]:
        """Velocity at `timestep` = 1000 sigma per latent frame."""
        x, e, e0, text = self._embedded(latents, timestep, text)
        for layer in range(len(self.blocks)):
            x = self._deeper(layer, x, e0, text, attend)
        shift, scale = (self.scale_shift_table.float() + e.float()[:, :, None]).split(1, dim=2)
        x = self.proj_out((self.norm_out(x) * (1 + scale) + shift).type_as(x))
        _, ph, pw = self.config["patch_size"]
        return rearrange(x, "b f (h w) (ph pw c) -> b c f (h ph) (w pw)", h=latents.shape[-2] // ph, ph=ph, pw=pw)

    def features(
        self,
        latents: Float[Tensor, "b c f h w"],
        timestep: Float[Tensor, "b f"],
        text: TextContext,
        attend: Attend,
        layers: Sequence[int],
    ) -> list[Float[Tensor, "b f n d"]]:
        """Tokens after the blocks of index `layers`, ascending; blocks after the last of them do not run."""
        x, _, e0, text = self._embedded(latents, timestep, text)
        kept = []
        for layer in range(max(layers) + 1):
            x = self._deeper(layer, x, e0, text, attend)
            if layer in layers:
                kept.append(x)
        return kept

    def _embedded(
        self, latents: Tensor, timestep: Tensor, text: TextContext
    ) -> tuple[Float[Tensor, "b f n d"], Float[Tensor, "b f d"], Float[Tensor, "b f six d"], TextContext]:
        """What the blocks start from: tokens, the time embedding, its projection, and text of the model's width."""
        x = rearrange(self.patch_embedding(latents), "b d f h w -> b f (h w) d").contiguous()
        e, e0 = self.condition_embedder.time(timestep, x.dtype)
        if self.config["inject_sample_info"]:
            rate = self.fps_embedding(torch.tensor(self.fps_index, device=e0.device))
            e0 = e0 + self.fps_projection(rate).unflatten(-1, (6, -1))
        return x, e, e0, replace(text, tokens=self.condition_embedder.text_embedder(text.tokens))

    def _deeper(self, layer: int, x: Tensor, e0: Tensor, text: TextContext, attend: Attend) -> Tensor:
        block = self.blocks[layer]
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(block, x, e0, text, layer, attend)  # pyright: ignore[reportOptionalCall]
        return block(x, e0, text, layer, attend)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Wan's initialisation: Xavier linears, N(0, 0.02) text and time embedders, a head that predicts zero."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                if "_embedder." in name:
                    nn.init.normal_(module.weight, std=0.02, generator=generator)
                else:
                    nn.init.xavier_uniform_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1), generator=generator)
        nn.init.zeros_(self.proj_out.weight)
        if self.config["inject_sample_info"]:
            nn.init.zeros_(self.fps_projection.net.get_parameter("2.weight"))
