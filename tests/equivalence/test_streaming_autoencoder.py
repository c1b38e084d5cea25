"""Streamed = whole: any split of a video decodes and encodes to what diffusers gives for all of it at once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load, save
from torch import Tensor

from blockvid.errors import InputError
from blockvid.model.autoencoder import Autoencoder, DecodeStream, EncodeStream, WanAutoencoder, decode, encode

SPLITS = [(7,), (1,) * 7, (1, 6), (3, 4), (2, 1, 4), (5, 2)]
HEIGHT, WIDTH = 16, 24


def wan21() -> AutoencoderKLWan:
    """Wan 2.1's structure with its own latent statistics."""
    return AutoencoderKLWan(base_dim=8, num_res_blocks=1)


def wan22() -> AutoencoderKLWan:
    """Wan 2.2's structure: residual shortcuts in time and a pixel patch of 2, so a spatial stride of 8 here."""
    return AutoencoderKLWan(
        base_dim=8,
        decoder_base_dim=12,
        z_dim=4,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.1, -0.2, 0.3, -0.4],
        latents_std=[2.0, 1.0, 0.5, 1.5],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
    )


@pytest.fixture(scope="module", params=[wan21, wan22])
def wan(request: pytest.FixtureRequest) -> WanAutoencoder:
    torch.manual_seed(0)
    return WanAutoencoder(request.param().eval().requires_grad_(False))


def random_latents(wan: WanAutoencoder, frames: int, seed: int = 1, batch: int = 1) -> Tensor:
    size = (batch, wan.channels, frames, HEIGHT // wan.spatial_stride, WIDTH // wan.spatial_stride)
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def random_frames(latent_frames: int, seed: int = 2, batch: int = 1) -> Tensor:
    size = (batch, 3, 1 + 4 * (latent_frames - 1), HEIGHT, WIDTH)
    return torch.rand(size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def pushed(stream: EncodeStream | DecodeStream, parts: Iterable[Tensor]) -> Tensor:
    return torch.cat([stream.push(part) for part in parts], dim=2)


def pixel_split(split: tuple[int, ...]) -> list[int]:
    """The pixel frames of a split of latent frames."""
    return [4 * part - (3 if first == 0 else 0) for first, part in enumerate(split)]


def test_it_is_an_autoencoder(wan: WanAutoencoder) -> None:
    assert isinstance(wan, Autoencoder)
    assert isinstance(wan.encoder(), EncodeStream) and isinstance(wan.decoder(), DecodeStream)
    assert (wan.temporal_stride, wan.spatial_stride, wan.channels) == (4, 8, wan.vae.config["z_dim"])


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("batch", [1, 2])
def test_streamed_decode_is_whole_decode(wan: WanAutoencoder, split: tuple[int, ...], batch: int) -> None:
    latents = random_latents(wan, 7, batch=batch)
    stream = wan.decoder()
    parts = [stream.push(part) for part in latents.split(split, dim=2)]
    assert [part.shape[2] for part in parts] == pixel_split(split)
    whole = wan.vae.decode(wan.denormalised(latents)).sample
    assert whole.std() > 0.05
    torch.testing.assert_close(torch.cat(parts, dim=2), whole, rtol=0, atol=1e-5)
    assert torch.equal(torch.cat(parts, dim=2), decode(wan, latents)), "and no split differs from another by a bit"


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("batch", [1, 2])
def test_streamed_encode_is_whole_encode(wan: WanAutoencoder, split: tuple[int, ...], batch: int) -> None:
    frames = random_frames(7, batch=batch)
    stream = wan.encoder()
    parts = [stream.push(part) for part in frames.split(pixel_split(split), dim=2)]
    assert [part.shape[2] for part in parts] == list(split)
    whole = wan.normalised(wan.vae.encode(frames).latent_dist.mode())
    torch.testing.assert_close(torch.cat(parts, dim=2), whole, rtol=0, atol=1e-5)
    assert torch.equal(torch.cat(parts, dim=2), encode(wan, frames)), "and no split differs from another by a bit"


def test_streams_and_whole_calls_do_not_disturb_each_other(wan: WanAutoencoder) -> None:
    first, second, frames = random_latents(wan, 5, seed=3), random_latents(wan, 5, seed=4), random_frames(5)
    alone = [decode(wan, first), decode(wan, second), encode(wan, frames)]
    a, b, c = wan.decoder(), wan.decoder(), wan.encoder()
    out: list[list[Tensor]] = [[], [], []]
    for index, part in enumerate(frames.split(pixel_split((1,) * 5), dim=2)):
        out[0].append(a.push(first[:, :, index : index + 1]))
        out[1].append(b.push(second[:, :, index : index + 1]))
        out[2].append(c.push(part))
        wan.vae.decode(wan.denormalised(second))
        wan.vae.encode(frames)
    for parts, expected in zip(out, alone, strict=True):
        assert torch.equal(torch.cat(parts, dim=2), expected)


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_a_decode_goes_on_from_its_saved_state(wan: WanAutoencoder, at: int) -> None:
    """At 1 the temporal upsamplers hold diffusers' text mark instead of features."""
    latents = random_latents(wan, 6)
    stream = wan.decoder()
    if at:
        stream.push(latents[:, :, :at])
    stored = save(stream.state())
    rest = stream.push(latents[:, :, at:])
    resumed = wan.decoder()
    resumed.push(random_latents(wan, 2, seed=9))
    resumed.load(load(stored))
    assert torch.equal(resumed.push(latents[:, :, at:]), rest)


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_an_encode_goes_on_from_its_saved_state(wan: WanAutoencoder, at: int) -> None:
    frames = random_frames(6)
    done = max(0, 4 * at - 3)
    stream = wan.encoder()
    if at:
        stream.push(frames[:, :, :done])
    stored = save(stream.state())
    rest = stream.push(frames[:, :, done:])
    resumed = wan.encoder()
    resumed.load(load(stored))
    assert torch.equal(resumed.push(frames[:, :, done:]), rest)


def test_a_state_is_not_changed_by_what_follows(wan: WanAutoencoder) -> None:
    latents = random_latents(wan, 5)
    stream = wan.decoder()
    stream.push(latents[:, :, :2])
    state = stream.state()
    before = {name: value.clone() for name, value in state.items()}
    stream.push(latents[:, :, 2:])
    assert all(torch.equal(value, before[name]) for name, value in state.items())


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_the_state_does_not_grow_with_the_video(wan: WanAutoencoder, kind: str) -> None:
    stream = getattr(wan, kind)()
    video = random_latents(wan, 50) if kind == "decoder" else random_frames(50)
    at_five = 5 if kind == "decoder" else 17

    def held() -> int:
        return sum(value.untyped_storage().nbytes() for value in stream.state().values())

    stream.push(video[:, :, :at_five])
    after_five = held()
    stream.push(video[:, :, at_five:])
    assert held() == after_five


def test_normalisation_round_trip(wan: WanAutoencoder) -> None:
    z = random_latents(wan, 3)
    torch.testing.assert_close(wan.denormalised(wan.normalised(z)), z)
    mean = torch.tensor(wan.vae.config["latents_mean"])[None, :, None, None, None]
    std = torch.tensor(wan.vae.config["latents_std"])[None, :, None, None, None]
    torch.testing.assert_close(wan.normalised(z), (z - mean) / std)


def test_dtype_and_range_are_honoured() -> None:
    torch.manual_seed(0)
    vae = wan21().to(torch.bfloat16)
    vae.decoder.conv_out.weight.data *= 20
    wan = WanAutoencoder(vae)
    frames = decode(wan, random_latents(wan, 2))
    assert frames.dtype == wan.dtype == torch.bfloat16
    assert (frames.min(), frames.max()) == (-1, 1)
    assert encode(wan, frames.float()).dtype == torch.bfloat16
    assert not frames.requires_grad and not encode(wan, frames).requires_grad


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 4, 16, 24), r"4 frames cannot open a stream, which takes 1 \+ 4k frames; use 1 or 5"),
        ((1, 3, 0, 16, 24), "0 frames cannot open a stream"),
        ((1, 3, 5, 20, 24), "a height of 20 is not a multiple of 8; use 16 or 24"),
        ((1, 3, 5, 16, 4), "a width of 4 is not a multiple of 8; use 8"),
        ((1, 4, 5, 16, 24), r"\(1, 4, 5, 16, 24\) are not \(batch, 3, time, height, width\); convert them to RGB"),
    ],
)
def test_bad_first_frames_are_refused(wan: WanAutoencoder, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        encode(wan, torch.zeros(shape))


def test_bad_later_frames_are_refused_and_leave_the_stream_as_it_was(wan: WanAutoencoder) -> None:
    frames = random_frames(3)
    stream = wan.encoder()
    first = stream.push(frames[:, :, :5])
    with pytest.raises(
        InputError, match="6 frames cannot continue a stream, which takes multiples of 4 frames; use 4 or 8"
    ):
        stream.push(torch.zeros(1, 3, 6, HEIGHT, WIDTH))
    with pytest.raises(InputError, match=r"\(1, 16, 16\) cannot follow \(1, 16, 24\).*open another stream"):
        stream.push(torch.zeros(1, 3, 4, 16, 16))
    assert torch.equal(torch.cat([first, stream.push(frames[:, :, 5:])], dim=2), encode(wan, frames))


def test_bad_latents_are_refused(wan: WanAutoencoder) -> None:
    with pytest.raises(InputError, match="use the latents of this autoencoder"):
        decode(wan, torch.zeros(1, 5, 2, 2, 3))
    stream = wan.decoder()
    stream.push(random_latents(wan, 1))
    with pytest.raises(InputError, match="cannot follow"):
        stream.push(random_latents(wan, 1, batch=2))


def test_foreign_states_are_refused(wan: WanAutoencoder) -> None:
    with pytest.raises(InputError, match="is not of this autoencoder"):
        wan.decoder().load(wan.encoder().state())
    with pytest.raises(InputError, match="without frames, repeat, size, slots is incomplete"):
        wan.decoder().load({})
    stream = wan.decoder()
    stream.push(random_latents(wan, 2))
    state = {name: x.bfloat16() if x.is_floating_point() else x for name, x in stream.state().items()}
    with pytest.raises(InputError, match=r"in torch\.bfloat16 cannot go on in torch\.float32"):
        stream.load(state)


def test_a_folder_is_read_and_a_wrong_one_refused(wan: WanAutoencoder, tmp_path: Path) -> None:
    wan.vae.save_pretrained(tmp_path / "vae")
    latents = random_latents(wan, 2)
    assert torch.equal(decode(WanAutoencoder.from_folder(tmp_path), latents), decode(wan, latents))
    with pytest.raises(InputError, match="name a diffusers model folder, with a vae subfolder"):
        WanAutoencoder.from_folder(tmp_path / "vae")


def test_statistics_for_other_channels_are_refused() -> None:
    with pytest.raises(InputError, match="latents_mean has 16 values for 4 latent channels"):
        WanAutoencoder(AutoencoderKLWan(base_dim=8, num_res_blocks=1, z_dim=4))
