"""A tiny fake sprite set, so that the world can be tested without the pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from blockvid.storybook.subjects import SUBJECTS


@pytest.fixture(scope="session")
def sprites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a coloured shape for every subject: a body, and a head on its left."""
    folder = tmp_path_factory.mktemp("subjects")
    for index, subject in enumerate(SUBJECTS):
        image = Image.new("RGBA", (64, 64))
        pen = ImageDraw.Draw(image)
        colour = (60 + index, 255 - index, (37 * index) % 256, 255)
        pen.ellipse((14, 24, 60, 60), fill=colour)
        pen.ellipse((4, 8, 30, 36), fill=colour)
        image.save(folder / f"{subject.file}.webp", lossless=True)
    return folder
