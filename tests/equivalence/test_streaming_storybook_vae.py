"""Streamed = whole, for the storybook's autoencoder."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save

from blockvid.errors import InputError
from blockvid.model.autoencoder import Autoencoder, DecodeStream, EncodeStream, decode, encode
from blockvid.model.storybook_vae import StorybookAutoencoder, StorybookVAE

SPLITS = [(7,), (1,) * 7, (1, 6), (3, 4), (2, 1, 4)]


@pytest.fixture(scope="module")
def autoencoder() -> StorybookAutoencoder:
    torch.manual_seed(0)
    vae = StorybookVAE(width=16, latent_width=32, blocks=1).eval().requires_grad_(False)
    vae.latents_mean, vae.latents_std = torch.randn(16), 0.5 + torch.rand(16)
    return StorybookAutoencoder(vae)


LATENTS = torch.randn(2, 16, 7, 2, 3, generator=torch.Generator().manual_seed(1))
FRAMES = torch.rand(2, 3, 25, 16, 24, generator=torch.Generator().manual_seed(2)) * 2 - 1


def pixels(split: tuple[int, ...]) -> list[int]:
    return [4 * part - (3 if first == 0 else 0) for first, part in enumerate(split)]


def test_it_is_an_autoencoder(autoencoder: StorybookAutoencoder) -> None:
    assert isinstance(autoencoder, Autoencoder)
    assert isinstance(autoencoder.encoder(), EncodeStream) and isinstance(autoencoder.decoder(), DecodeStream)
    assert (autoencoder.temporal_stride, autoencoder.spatial_stride, autoencoder.channels) == (4, 8, 16)


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_any_split_decodes_alike(autoencoder: StorybookAutoencoder, split: tuple[int, ...]) -> None:
    stream = autoencoder.decoder()
    parts = [stream.push(part) for part in LATENTS.split(split, dim=2)]
    assert [part.shape[2] for part in parts] == pixels(split)
    assert torch.equal(torch.cat(parts, dim=2), decode(autoencoder, LATENTS))
    at_once, _ = autoencoder.vae.decode(LATENTS)
    torch.testing.assert_close(torch.cat(parts, dim=2), at_once.clamp(-1, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_any_split_encodes_alike(autoencoder: StorybookAutoencoder, split: tuple[int, ...]) -> None:
    stream = autoencoder.encoder()
    parts = [stream.push(part) for part in FRAMES.split(pixels(split), dim=2)]
    assert [part.shape[2] for part in parts] == list(split)
    assert torch.equal(torch.cat(parts, dim=2), encode(autoencoder, FRAMES))
    at_once, _ = autoencoder.vae.encode(FRAMES)
    torch.testing.assert_close(torch.cat(parts, dim=2), at_once, rtol=0, atol=1e-5)


@pytest.mark.parametrize("at", [0, 1, 3])
def test_streams_go_on_from_their_saved_state(autoencoder: StorybookAutoencoder, at: int) -> None:
    for kind, video in (("decoder", LATENTS), ("encoder", FRAMES)):
        cut = at if kind == "decoder" else max(0, 4 * at - 3)
        stream, resumed = getattr(autoencoder, kind)(), getattr(autoencoder, kind)()
        if cut:
            stream.push(video[:, :, :cut])
        stored = save(stream.state())
        resumed.push(video[:, :, :1] * 0)
        resumed.load(load(stored))
        assert torch.equal(resumed.push(video[:, :, cut:]), stream.push(video[:, :, cut:]))


def test_nothing_is_seen_of_the_future(autoencoder: StorybookAutoencoder) -> None:
    changed = LATENTS.clone()
    changed[:, :, 4:] += 1
    assert torch.equal(decode(autoencoder, changed)[:, :, :13], decode(autoencoder, LATENTS)[:, :, :13])


def test_bad_shapes_are_refused_and_leave_the_stream_as_it_was(autoencoder: StorybookAutoencoder) -> None:
    stream = autoencoder.decoder()
    first = stream.push(LATENTS[:, :, :2])
    with pytest.raises(InputError, match="cannot follow"):
        stream.push(torch.zeros(1, 16, 1, 2, 3))
    with pytest.raises(InputError, match="use the latents of this autoencoder"):
        stream.push(torch.zeros(2, 4, 1, 2, 3))
    rest = stream.push(LATENTS[:, :, 2:])
    assert torch.equal(torch.cat((first, rest), dim=2), decode(autoencoder, LATENTS))
    with pytest.raises(InputError, match=r"4 frames cannot open a stream, which takes 1 \+ 4k frames; use 1 or 5"):
        encode(autoencoder, torch.zeros(1, 3, 4, 16, 24))
    with pytest.raises(InputError, match="is incomplete"):
        stream.load({})


def test_precision_and_range_are_the_autoencoders() -> None:
    torch.manual_seed(0)
    vae = StorybookVAE(width=16, latent_width=32, blocks=1).eval()
    vae.frame_out.weight.data *= 50
    low = StorybookAutoencoder(torch.nn.Module.to(vae, torch.bfloat16))
    frames = decode(low, LATENTS)
    assert frames.dtype == torch.bfloat16 == encode(low, FRAMES).dtype and not frames.requires_grad
    assert (frames.min(), frames.max()) == (-1, 1)
