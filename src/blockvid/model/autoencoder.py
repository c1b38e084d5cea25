"""Streaming encode and decode around a causal 3D VAE.

One video is one stream: latent frame 0 is the image latent (one pixel frame) and every later latent frame is
``temporal_stride`` pixel frames. A causal VAE needs nothing from the future, so the frames may arrive in any split;
what the convolutions remember of the past is the stream's state, and its size does not depend on the video's length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from blockvid.errors import InputError

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

PIXEL_CHANNELS = 3
# diffusers' mark of a temporal upsampler that has let the image latent pass, and has no features of its own yet.
REPEAT = "Rep"


@runtime_checkable
class EncodeStream(Protocol):
    """Pixel frames in, normalised latents out."""

    def push(self, frames: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b z f y x"]:
        """The latents of the next ``frames``, floats in [-1, 1].

        The first push takes 1 + k * temporal_stride frames, the later ones k * temporal_stride.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """What ``load`` needs to go on from here, bit for bit; safetensors can write it."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from where ``state`` was taken, whatever this stream has seen so far."""
        ...


@runtime_checkable
class DecodeStream(Protocol):
    """Normalised latents in, pixel frames out."""

    def push(self, latents: Float[Tensor, "b z f y x"]) -> Float[Tensor, "b c t h w"]:
        """The frames of the next ``latents``, in [-1, 1].

        The first push gives 1 + (f - 1) * temporal_stride frames, the later ones f * temporal_stride.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """What ``load`` needs to go on from here, bit for bit; safetensors can write it."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from where ``state`` was taken, whatever this stream has seen so far."""
        ...


@runtime_checkable
class Autoencoder(Protocol):
    """A causal video autoencoder; any number of its streams may be open at once."""

    @property
    def temporal_stride(self) -> int:
        """Pixel frames in a latent frame, the first excepted."""
        ...

    @property
    def spatial_stride(self) -> int:
        """Pixels along the edge of a latent cell."""
        ...

    @property
    def channels(self) -> int:
        """Latent channels."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def encoder(self) -> EncodeStream:
        """A stream that has seen nothing."""
        ...

    def decoder(self) -> DecodeStream:
        """A stream that has seen nothing."""
        ...


def encode(autoencoder: Autoencoder, frames: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b z f y x"]:
    """Normalised latents of a whole video of 1 + k * temporal_stride frames in [-1, 1]."""
    return autoencoder.encoder().push(frames)


def decode(autoencoder: Autoencoder, latents: Float[Tensor, "b z f y x"]) -> Float[Tensor, "b c t h w"]:
    """The 1 + (f - 1) * temporal_stride frames in [-1, 1] of a whole video's normalised latents."""
    return autoencoder.decoder().push(latents)


def to_unit(pixels: UInt8[Tensor, "*b t h w 3"]) -> Float[Tensor, "*b 3 t h w"]:
    """Pixels as an autoencoder takes them: float32 of 0 to 255 over [-1, 1], channels before time."""
    return pixels.movedim(-1, -4).float() / 127.5 - 1


def to_pixels(frames: Float[Tensor, "*b 3 t h w"]) -> UInt8[Tensor, "*b t h w 3"]:
    """The inverse, of what an autoencoder gives: clipped to [-1, 1], and rounded."""
    return ((frames.float().clamp(-1, 1) + 1) * 127.5).round().byte().movedim(-4, -1)


def check_frames(frames: Tensor, autoencoder: Autoencoder, size: Sequence[int]) -> None:
    """Refuse frames that ``autoencoder`` cannot encode next.

    ``size`` is the (b, h, w) of the frames pushed before, empty at the first push.
    """
    t, stride, edge = (
        frames.shape[2] if frames.ndim == 5 else 0,
        autoencoder.temporal_stride,
        autoencoder.spatial_stride,
    )
    if frames.ndim != 5 or frames.shape[1] != PIXEL_CHANNELS:
        raise InputError(
            f"frames of shape {tuple(frames.shape)} are not (batch, {PIXEL_CHANNELS}, time, height, width); "
            "convert them to RGB and move the axes"
        )
    for name, pixels in (("height", frames.shape[3]), ("width", frames.shape[4])):
        if pixels % edge or not pixels:
            below = pixels // edge * edge
            near = f"{below} or {below + edge}" if below else f"{edge}"
            raise InputError(f"a {name} of {pixels} is not a multiple of {edge}; use {near}")
    opening = 0 if size else 1
    if t < 1 or (t - opening) % stride:
        below = max(t - opening, 0) // stride * stride + opening
        near = f"{below} or {below + stride}" if below else f"{stride}"
        rule = f"multiples of {stride} frames" if size else f"1 + {stride}k frames"
        verb = "continue" if size else "open"
        raise InputError(f"{t} frames cannot {verb} a stream, which takes {rule}; use {near}")
    _check_size("frames", (frames.shape[0], *frames.shape[3:]), size)


def check_latents(latents: Tensor, autoencoder: Autoencoder, size: Sequence[int]) -> None:
    """Refuse latents that ``autoencoder`` cannot decode next; ``size`` as in ``check_frames``, in latent cells."""
    if latents.ndim != 5 or latents.shape[1] != autoencoder.channels or latents.shape[2] < 1:
        raise InputError(
            f"latents of shape {tuple(latents.shape)} are not (batch, {autoencoder.channels}, frames >= 1, height, "
            "width); use the latents of this autoencoder"
        )
    _check_size("latents", (latents.shape[0], *latents.shape[3:]), size)


def _check_size(what: str, size: Sequence[int], before: Sequence[int]) -> None:
    if before and tuple(size) != tuple(before):
        raise InputError(
            f"{what} with (batch, height, width) {tuple(size)} cannot follow {tuple(before)}: a stream has one size; "
            "open another stream"
        )


@dataclass(frozen=True)
class Carry:
    """What a causal network remembers between two latent frames: nothing here is ever changed in place.

    frames: latent frames seen; size: their (b, h, w), empty before the first;
    features: one entry per causal convolution in the order they run, None where it keeps none.
    """

    frames: int
    size: tuple[int, ...]
    features: tuple[Tensor | str | None, ...]

    def state(self) -> dict[str, Tensor]:
        """As tensors; the features keep their index in their name."""
        repeats = [index for index, feature in enumerate(self.features) if isinstance(feature, str)]
        features = {f"feature.{i:03d}": x for i, x in enumerate(self.features) if isinstance(x, Tensor)}
        return {
            "frames": torch.tensor(self.frames, dtype=torch.int64),
            "size": torch.tensor(self.size, dtype=torch.int64),
            "slots": torch.tensor(len(self.features), dtype=torch.int64),
            "repeat": torch.tensor(repeats, dtype=torch.int64),
            **features,
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor], slots: int, device: torch.device, dtype: torch.dtype) -> Carry:
        """The carry that ``state`` was taken of, for a network of ``slots`` causal convolutions.

        Raises InputError if the state is incomplete or another network's.
        """
        lost = {"frames", "size", "slots", "repeat"} - set(state)
        if lost:
            raise InputError(f"a stream state without {', '.join(sorted(lost))} is incomplete; load what state() gave")
        if int(state["slots"]) != slots:
            raise InputError(
                f"a stream state of {int(state['slots'])} causal convolutions is not of this autoencoder, "
                f"which has {slots}; load it into the autoencoder it came from"
            )
        features: list[Tensor | str | None] = [None] * slots
        for index in state["repeat"].tolist():
            features[index] = REPEAT
        for name, feature in state.items():
            if name.startswith("feature."):
                if feature.dtype != dtype:
                    raise InputError(f"a stream state in {feature.dtype} cannot go on in {dtype}; use {feature.dtype}")
                features[int(name.removeprefix("feature."))] = feature.to(device)
        return cls(int(state["frames"]), tuple(state["size"].tolist()), tuple(features))

    def through(
        self, network: Callable[[Tensor, list[Tensor | str | None], list[int]], Tensor], x: Float[Tensor, "b c t h w"]
    ) -> tuple[Tensor, Carry]:
        """One latent frame through ``network(x, features, cursor)``, and what the next one needs to know.

        Features are stored contiguous, so that a stream continued from its saved state runs the very same kernels.
        """
        features = list(self.features)
        y = network(x, features, [0])
        kept = tuple(feature.contiguous() if isinstance(feature, Tensor) else feature for feature in features)
        return y, replace(self, frames=self.frames + 1, features=kept)


def _slots(network: nn.Module) -> int:
    """Room for a feature of every causal convolution; those that keep none leave theirs empty, at the end."""
    return sum(isinstance(module, nn.Conv3d) for module in network.modules())


class WanAutoencoder:
    """The causal VAE of Wan 2.1 and SkyReels-V2 (and of Wan 2.2, which adds a pixel patch), around diffusers' weights.

    Latents are normalised per channel, (z - mean) / std, with the statistics in the VAE's config. Equals diffusers'
    ``encode(...).latent_dist.mode()`` and ``decode(...)`` of the whole video, without the tiling.
    """

    def __init__(self, vae: nn.Module) -> None:
        """Around ``vae``, a diffusers AutoencoderKLWan; it should be in fp32, bf16 costs visible detail."""
        self.vae = cast("AutoencoderKLWan", vae)
        config = self.vae.config
        self.channels: int = config["z_dim"]
        self.patch: int = config["patch_size"] or 1
        self.temporal_stride: int = 2 ** sum(config["temperal_downsample"])
        self.spatial_stride: int = 2 ** (len(config["dim_mult"]) - 1) * self.patch
        for name in ("latents_mean", "latents_std"):
            if len(config[name]) != self.channels:
                raise InputError(
                    f"{name} has {len(config[name])} values for {self.channels} latent channels; "
                    "give one per channel in the VAE's config.json"
                )
        self._mean = rearrange(torch.tensor(config["latents_mean"], dtype=torch.float32), "c -> c 1 1 1")
        self._std = rearrange(torch.tensor(config["latents_std"], dtype=torch.float32), "c -> c 1 1 1")

    @classmethod
    def from_folder(
        cls, folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> WanAutoencoder:
        """The VAE in the ``vae`` subfolder of a diffusers model folder.

        Raises InputError if there is none, or weights are missing from it.
        """
        from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

        path = Path(folder) / "vae"
        if not (path / "config.json").is_file():
            raise InputError(f"{path} has no config.json; name a diffusers model folder, with a vae subfolder")
        loaded = AutoencoderKLWan.from_pretrained(
            path, torch_dtype=dtype, local_files_only=True, output_loading_info=True
        )
        vae, report = cast("tuple[AutoencoderKLWan, dict[str, list[str]]]", loaded)
        if report["missing_keys"]:
            first = sorted(report["missing_keys"])[0]
            raise InputError(f"{path} lacks {len(report['missing_keys'])} weights, such as {first}; download it again")
        return cls(cast(nn.Module, vae).to(device).eval().requires_grad_(False))

    @property
    def device(self) -> torch.device:
        """Where the streams compute, and return."""
        return self.vae.device

    @property
    def dtype(self) -> torch.dtype:
        """What the streams compute in, and return."""
        return self.vae.dtype

    def encoder(self) -> WanEncodeStream:
        """A stream that has seen nothing."""
        return WanEncodeStream(self)

    def decoder(self) -> WanDecodeStream:
        """A stream that has seen nothing."""
        return WanDecodeStream(self)

    def normalised(self, z: Float[Tensor, "b z f y x"]) -> Float[Tensor, "b z f y x"]:
        """(z - mean) / std per channel; the fp32 statistics make it fp32 at least."""
        return (z - self._mean.to(z.device)) / self._std.to(z.device)

    def denormalised(self, latents: Float[Tensor, "b z f y x"]) -> Float[Tensor, "b z f y x"]:
        """std * latents + mean per channel; the fp32 statistics make it fp32 at least."""
        return latents * self._std.to(latents.device) + self._mean.to(latents.device)


class WanEncodeStream:
    """An ``EncodeStream`` of a WanAutoencoder; works latent frame by latent frame, so memory does not grow."""

    def __init__(self, autoencoder: WanAutoencoder) -> None:
        self._wan = autoencoder
        self._carry = Carry(0, (), (None,) * _slots(autoencoder.vae.encoder))

    @torch.no_grad()
    def push(self, frames: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b z f y x"]:
        """As ``EncodeStream.push``. Raises InputError for a wrong shape, and then has seen nothing of it."""
        wan, carry = self._wan, self._carry
        check_frames(frames, wan, carry.size)
        t, stride = frames.shape[2], wan.temporal_stride
        lengths = [stride] * (t // stride) if carry.frames else [1] + [stride] * ((t - 1) // stride)
        latents = []
        for part in frames.split(lengths, dim=2):
            x = rearrange(
                part.to(wan.device, wan.dtype), "b c t (h p) (w q) -> b (c q p) t h w", p=wan.patch, q=wan.patch
            )
            y, carry = carry.through(self._network, x.contiguous())
            mode, _ = wan.vae.quant_conv(y).chunk(2, dim=1)
            latents.append(wan.normalised(mode).to(wan.dtype))
        self._carry = replace(carry, size=(frames.shape[0], *frames.shape[3:]))
        return torch.cat(latents, dim=2)

    def state(self) -> dict[str, Tensor]:
        """As ``EncodeStream.state``."""
        return self._carry.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """As ``EncodeStream.load``. Raises InputError for the state of another network."""
        self._carry = Carry.of_state(state, len(self._carry.features), self._wan.device, self._wan.dtype)

    def _network(self, x: Tensor, features: list[Tensor | str | None], cursor: list[int]) -> Tensor:
        return self._wan.vae.encoder(x, feat_cache=features, feat_idx=cursor)


class WanDecodeStream:
    """A ``DecodeStream`` of a WanAutoencoder; works latent frame by latent frame, so memory does not grow."""

    def __init__(self, autoencoder: WanAutoencoder) -> None:
        self._wan = autoencoder
        self._carry = Carry(0, (), (None,) * _slots(autoencoder.vae.decoder))

    @torch.no_grad()
    def push(self, latents: Float[Tensor, "b z f y x"]) -> Float[Tensor, "b c t h w"]:
        """As ``DecodeStream.push``. Raises InputError for a wrong shape, and then has seen nothing of it."""
        wan, carry = self._wan, self._carry
        check_latents(latents, wan, carry.size)
        frames = []
        for part in latents.split(1, dim=2):
            z = wan.denormalised(part.to(wan.device)).to(wan.dtype)
            # Wan 2.2's shortcuts repeat frames in time, and must drop the repeats of the image latent.
            network = self._opening if carry.frames == 0 else self._network
            y, carry = carry.through(network, wan.vae.post_quant_conv(z.contiguous()))
            pixels = rearrange(y, "b (c q p) t h w -> b c t (h p) (w q)", p=wan.patch, q=wan.patch)
            frames.append(pixels.clamp(-1, 1))
        self._carry = replace(carry, size=(latents.shape[0], *latents.shape[3:]))
        return torch.cat(frames, dim=2)

    def state(self) -> dict[str, Tensor]:
        """As ``DecodeStream.state``."""
        return self._carry.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """As ``DecodeStream.load``. Raises InputError for the state of another network."""
        self._carry = Carry.of_state(state, len(self._carry.features), self._wan.device, self._wan.dtype)

    def _opening(self, x: Tensor, features: list[Tensor | str | None], cursor: list[int]) -> Tensor:
        return self._wan.vae.decoder(x, feat_cache=features, feat_idx=cursor, first_chunk=True)

    def _network(self, x: Tensor, features: list[Tensor | str | None], cursor: list[int]) -> Tensor:
        return self._wan.vae.decoder(x, feat_cache=features, feat_idx=cursor)
