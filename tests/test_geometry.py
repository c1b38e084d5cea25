"""Laws of the sizes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockvid.errors import InputError
from blockvid.geometry import Geometry

WAN = Geometry(width=832, height=480, fps=16, chunk_frames=3)
STRIDES = st.sampled_from([1, 2, 4, 8])


def test_wan_sizes() -> None:
    assert (WAN.latent_height, WAN.latent_width, WAN.tokens_per_frame) == (60, 104, 1560)
    assert WAN.chunk_seconds == 0.75


def test_a_minute_at_eight_frames_a_second_is_121_latents() -> None:
    geometry = Geometry(width=128, height=128, fps=8, chunk_frames=8)
    assert geometry.latent_frames(480) == 121
    assert geometry.pixel_frames(121) == 481


def test_one_pixel_frame_is_one_latent_frame() -> None:
    assert WAN.latent_frames(1) == 1
    assert WAN.pixel_frames(1) == 1


@given(pixels=st.integers(1, 100_000), stride=STRIDES)
def test_latent_frames_are_the_fewest_that_cover(pixels: int, stride: int) -> None:
    geometry = Geometry(width=64, height=64, fps=8, chunk_frames=4, temporal_stride=stride)
    latents = geometry.latent_frames(pixels)
    assert geometry.pixel_frames(latents) >= pixels
    assert latents == 1 or geometry.pixel_frames(latents - 1) < pixels


@given(latents=st.integers(1, 100_000), stride=STRIDES)
def test_latents_survive_the_round_trip(latents: int, stride: int) -> None:
    geometry = Geometry(width=64, height=64, fps=8, chunk_frames=4, temporal_stride=stride)
    assert geometry.latent_frames(geometry.pixel_frames(latents)) == latents


@given(edges=st.lists(st.integers(0, 1000), min_size=2, unique=True), frames=st.integers(1, 5000), stride=STRIDES)
def test_spans_of_pixels_tile_the_video(edges: list[int], frames: int, stride: int) -> None:
    geometry = Geometry(width=64, height=64, fps=8, chunk_frames=4, temporal_stride=stride)
    cuts = [0, *sorted(set(edges) - {0})]
    spans = [geometry.pixels(start, stop) for start, stop in pairwise(cuts)]
    assert [i for span in spans for i in span] == list(range(geometry.pixel_frames(cuts[-1])))
    shown = [geometry.pixels(start, stop, frames) for start, stop in pairwise(cuts)]
    assert [i for span in shown for i in span] == list(range(min(frames, geometry.pixel_frames(cuts[-1]))))


@given(
    rows=st.integers(1, 64), columns=st.integers(1, 64), spatial=st.sampled_from([4, 8, 16]), patch=st.integers(1, 4)
)
def test_tokens_tile_the_picture(rows: int, columns: int, spatial: int, patch: int) -> None:
    geometry = Geometry(
        width=columns * spatial * patch,
        height=rows * spatial * patch,
        fps=8,
        chunk_frames=4,
        spatial_stride=spatial,
        patch=(1, patch, patch),
    )
    assert geometry.tokens_per_frame == rows * columns


@pytest.mark.parametrize(
    ("name", "value", "repair"),
    [
        ("width", 830, "use 816 or 832"),
        ("width", 8, "use 16"),
        ("height", 0, "whole number of at least 1"),
        ("height", 480.0, "whole number of at least 1"),
        ("fps", 0, "finite number above 0"),
        ("fps", float("nan"), "finite number above 0"),
        ("fps", float("inf"), "finite number above 0"),
        ("fps", "8", "finite number above 0"),
        ("chunk_frames", 0, "whole number of at least 1"),
        ("chunk_frames", True, "whole number of at least 1"),
        ("temporal_stride", -4, "whole number of at least 1"),
        ("patch", (2, 2, 2), "use 1"),
        ("patch", (1, 2), "give three"),
        ("patch", (1, 0, 2), "whole number of at least 1"),
    ],
)
def test_bad_sizes_are_refused_in_one_line(name: str, value: object, repair: str) -> None:
    sizes: dict[str, object] = {"width": 832, "height": 480, "fps": 16, "chunk_frames": 3, name: value}
    with pytest.raises(InputError) as refusal:
        Geometry(**sizes)  # type: ignore[arg-type]
    message = str(refusal.value)
    assert name in message
    assert repair in message
    assert "\n" not in message


@pytest.mark.parametrize("count", [0, -3, 2.5])
def test_counts_start_at_one(count: int) -> None:
    with pytest.raises(InputError, match="at least 1"):
        WAN.latent_frames(count)
    with pytest.raises(InputError, match="at least 1"):
        WAN.pixel_frames(count)
