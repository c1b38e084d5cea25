"""Pixels and what autoencoders take for them."""

from __future__ import annotations

import torch

from blockvid.model.autoencoder import to_pixels, to_unit


def test_every_pixel_survives_the_round_trip() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(2, 3).reshape(2, 4, 8, 8, 3)
    unit = to_unit(pixels)
    assert unit.shape == (2, 3, 4, 8, 8) and unit.min() == -1 and unit.max() == 1
    assert torch.equal(to_pixels(unit), pixels) and torch.equal(to_pixels(unit[0]), pixels[0])


def test_what_is_outside_is_clipped() -> None:
    assert to_pixels(torch.tensor([-9.0, 0.0, 9.0])[:, None, None, None]).flatten().tolist() == [0, 128, 255]
