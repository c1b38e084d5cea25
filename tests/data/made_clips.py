"""Small captioned videos, and the tiny model that encodes them: 32x32 pixels, 8 fps, chunks of a second."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from blockvid.video import write_video

PROMPTS = ("A red ball rolls.", "The ball stops at a green hill.")


def pictures(frames: int, seed: int = 0, width: int = 32, height: int = 32) -> np.ndarray:
    """Smooth colours that move, so that no two frames are alike."""
    t, y, x = np.mgrid[0:frames, 0:height, 0:width]
    waves = [np.sin((x + seed) / 9 + t / 3), np.cos(y / 7 - t / 4), np.sin((x + y) / 11 + t / 5 + seed)]
    return ((np.stack(waves, axis=-1) + 1) * 127.5).astype(np.uint8)


def captions(*seconds: float) -> str:
    """A storyboard whose shots last so long."""
    shots = [{"prompt": PROMPTS[n % 2], "seconds": length} for n, length in enumerate(seconds)]
    return json.dumps({"shots": shots})


def clip(folder: Path, name: str, frames: int = 25, seconds: tuple[float, ...] = (2.0, 2.0), fps: float = 8) -> Path:
    """A video and its storyboard."""
    path = folder / f"{name}.mp4"
    write_video(path, pictures(frames, seed=len(name)), fps)
    path.with_suffix(".json").write_text(captions(*seconds))
    return path


def timed_video(path: Path, frames: np.ndarray, ticks: list[int], per_second: int = 1000) -> None:
    """A video whose frames are shown at these ticks; lossless enough to tell frames apart."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv444p"
        stream.options = {"crf": "0", "bf": "0"}
        stream.codec_context.time_base = stream.time_base = Fraction(1, per_second)
        for pixels, tick in zip(frames, ticks, strict=True):
            picture = av.VideoFrame.from_ndarray(pixels, "rgb24")
            picture.pts, picture.time_base = tick, Fraction(1, per_second)
            out.mux(stream.encode(picture))
        out.mux(stream.encode())


def contents(folder: Path) -> dict[str, bytes]:
    """What an interrupted and an uninterrupted call must agree on: every file but the lock."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
