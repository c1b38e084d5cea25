"""Contact sheets are looked at: what is where, and what becomes of words that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blockvid.errors import InputError
from blockvid.sheet import Still, contact_sheet

LONG = "A red-brown fox walks to the left below snowy mountains at dusk as snow falls and the camera zooms out. " * 3


def still(shade: int, caption: str = "", width: int = 240, height: int = 180) -> Still:
    return Still(3.5 * shade, np.full((height, width, 3), shade, np.uint8), caption)


def drawn(path: Path, *stills: Still, columns: int = 3) -> np.ndarray:
    contact_sheet(stills, columns, path)
    return np.asarray(Image.open(path))


def test_every_frame_is_shown_in_reading_order(tmp_path: Path) -> None:
    sheet = drawn(tmp_path / "sheet.png", *(still(40 * n) for n in range(5)))
    assert sheet.shape == (2 * 184 + 4, 3 * 244 + 4, 3)
    for n in range(5):
        assert sheet[4 + 184 * (n // 3) + 140, 4 + 244 * (n % 3) + 200].tolist() == [40 * n] * 3


@pytest.mark.parametrize(
    ("given", "shown"), [((64, 48), (240, 180)), ((300, 200), (300, 200)), ((640, 320), (320, 160))]
)
def test_small_stills_are_enlarged_and_large_ones_reduced(
    tmp_path: Path, given: tuple[int, int], shown: tuple[int, int]
) -> None:
    sheet = drawn(tmp_path / "sheet.png", still(9, width=given[0], height=given[1]))
    assert sheet.shape == (shown[1] + 8, shown[0] + 8, 3)


def test_captions_stand_under_their_stills_and_rows_without_stay_close(tmp_path: Path) -> None:
    sheet = drawn(tmp_path / "sheet.png", still(9, "a fox"), still(9), still(9), columns=2)
    assert sheet.shape[0] == (180 + 15) + 180 + 3 * 4
    under = sheet[184:199]
    assert under[:, 4:244].min() == 0 and under[:, 248:].min() == 255


def test_a_long_caption_ends_in_an_ellipsis_and_stays_under_its_still(tmp_path: Path) -> None:
    sheet = drawn(tmp_path / "sheet.png", still(9, LONG), still(9), columns=2)
    assert sheet.shape[0] == 180 + 4 * 15 + 2 * 4
    assert sheet[184:, 246:].min() == 255


def test_a_word_without_end_is_cut_off_at_the_still(tmp_path: Path) -> None:
    sheet = drawn(tmp_path / "sheet.png", still(9, "fox" * 99), still(9), columns=2)
    assert sheet.shape[0] == 180 + 15 + 2 * 4
    assert sheet[184:, 244:].min() == 255


@pytest.mark.parametrize(("caption", "same"), [("café – noir", "cafe - noir"), ("一只狐狸", ""), ("Лиса", "")])
def test_what_the_font_lacks_is_replaced_or_left_out(tmp_path: Path, caption: str, same: str) -> None:
    ours, plain = (drawn(tmp_path / f"{i}.png", still(9, text)) for i, text in enumerate((caption, same)))
    assert np.array_equal(ours, plain)


def test_no_stills_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 frames"):
        contact_sheet([], 3, tmp_path / "sheet.png")
