"""Pixel frames in and out of files: reading videos and pictures, and an mp4 that is playable while it grows."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from jaxtyping import Float64, UInt8
from PIL import Image, ImageOps

from blockvid.errors import InputError
from blockvid.files import AGAIN, RESUME, refused, replacing

ENDINGS = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m2ts", ".mts", ".ts", ".flv", ".wmv"}
)
"""Of videos in a folder."""
READ = 4  # frames of any size that are decoded at a time: a few of 4K are 100 MB
TICK = 1e-6  # seconds between frames that a container gives one time
ONE_GOP = 1 << 20  # frames between keyframes; not the chunk's length, which would enter the stream's header


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says of itself; width and height are those of the upright picture."""

    width: int
    height: int
    fps: float
    frames: int | None
    seconds: float


def probe(path: Path) -> VideoInfo:
    """Describe a video; ``frames`` is None where only decoding would tell. InputError if there is no video in it."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        first = next(_decoded(path, container), None)
        if first is None:
            raise InputError(f"{path} holds no video frame that can be decoded; give another video")
        fps = float(stream.average_rate or stream.guessed_rate or 25)
        frames = stream.frames or None
        if stream.duration is not None and stream.time_base is not None:
            seconds = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            seconds = container.duration / av.time_base
        else:  # raw streams and some live recordings carry no duration at all
            frames = 1 + sum(1 for _ in _decoded(path, container))
            seconds = frames / fps
    return VideoInfo(width=first.shape[1], height=first.shape[0], fps=fps, frames=frames, seconds=seconds)


def read_frames(path: Path, batch: int = 32) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
    """Stream the upright RGB frames of a video in blocks of ``batch``, at the rate they are stored (no resampling).

    At most one block is in memory. InputError, at the call itself, for what is no video.
    """
    probe(path)
    return _blocks(path, batch)


def _blocks(path: Path, batch: int) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
    with _opened(path) as container:
        block: list[np.ndarray] = []
        for frame in _decoded(path, container):
            block.append(frame)
            if len(block) == batch:
                yield np.stack(block)
                block = []
        if block:
            yield np.stack(block)


def read_timed(path: Path, batch: int = 32) -> Iterator[tuple[UInt8[np.ndarray, "t h w 3"], Float64[np.ndarray, " t"]]]:
    """As `read_frames`, each block with the seconds from the first frame at which its frames are shown.

    Times are the container's, so a variable rate is true to the file, and strictly increase: frames without a time
    follow each other at the stream's rate, and a clock that was set back (joined recordings) goes on from where it was.
    """
    return _timed_blocks(path, batch, probe(path).fps)


def _timed_blocks(
    path: Path, batch: int, fps: float
) -> Iterator[tuple[UInt8[np.ndarray, "t h w 3"], Float64[np.ndarray, " t"]]]:
    with _opened(path) as container:
        frames: list[np.ndarray] = []
        seconds: list[float] = []
        for pixels, moment in _moments(_decoded_timed(path, container), 1 / fps):
            frames.append(pixels)
            seconds.append(moment)
            if len(frames) == batch:
                yield np.stack(frames), np.array(seconds)
                frames, seconds = [], []
        if frames:
            yield np.stack(frames), np.array(seconds)


def _moments(
    frames: Iterator[tuple[UInt8[np.ndarray, "h w 3"], float | None]], interval: float
) -> Iterator[tuple[UInt8[np.ndarray, "h w 3"], float]]:
    """Frames with strictly increasing times from 0; `interval` is the usual time between two."""
    zero: float | None = None
    last = -interval
    for pixels, clock in frames:
        due = last + interval
        if clock is None:
            moment = due
        else:
            if zero is None or clock - zero < last - interval:  # the first time, or one after the clock was set back
                zero = clock - due
            moment = max(clock - zero, last + TICK)
        yield pixels, moment
        last = moment


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    if not path.exists():
        raise InputError(f"{path} does not exist; give the path of a video")
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a video; give the path of a file in it")
    try:
        container = av.open(str(path))
    except (FFmpegError, OSError) as error:
        raise InputError(f"{path} is not a video that FFmpeg can open ({error.strerror}); convert it to mp4") from error
    with container:
        if not container.streams.video:
            raise InputError(f"{path} has no video stream (sound only?); give a file with pictures")
        yield container


def _decoded(path: Path, container: InputContainer) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    return (pixels for pixels, _ in _decoded_timed(path, container))


def _decoded_timed(path: Path, container: InputContainer) -> Iterator[tuple[UInt8[np.ndarray, "h w 3"], float | None]]:
    """Upright pixels, and the container's time in seconds, of any origin; None where it has none."""
    stream = container.streams.video[0]
    try:
        for frame in container.decode(stream):
            # Fixing the size keeps blocks stackable in the rare stream that changes it midway.
            pixels = frame.to_ndarray(format="rgb24", width=stream.width, height=stream.height)
            clock = None if frame.pts is None else frame.time
            yield np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90))), clock
    except FFmpegError as error:
        raise InputError(f"{path} is damaged ({error.strerror}); give an intact copy") from error


def read_image(path: Path, width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
    """Read a picture upright (EXIF), on white where transparent, resized and centre-cropped to that size."""
    if path.is_dir() or not path.exists():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"the picture {path} {what}; give the path of an image file")
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bits: Pillow would clip instead of scale
                image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            fitted = ImageOps.fit(image.convert("RGB"), (width, height), Image.Resampling.LANCZOS)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is not a picture that can be read; convert it to PNG or JPEG") from error
    return np.array(fitted)


def check_target(path: Path, repair: str = AGAIN) -> None:
    """InputError unless ``path`` could be written now: found before the work, not after it. ``repair`` as `refused`."""
    if path.is_dir():
        raise InputError(f"{path} is a folder, and a video is a file; use {path / 'video.mp4'}")
    if path.suffix.lower() != ".mp4":
        raise InputError(f"{path} does not end in .mp4, the one format written; use {path.with_suffix('.mp4')}")
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} does not exist; create it or choose another output")
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(b"")
        part.unlink()
    except OSError as error:
        raise refused(path, error, repair) from error


def write_video(path: Path, frames: UInt8[np.ndarray, "t h w 3"], fps: float, crf: int = 17) -> None:
    """Write a whole mp4 at once (H.264, yuv420p, constant rate); ``path`` appears complete or not at all."""
    check_target(path)
    _, height, width, _ = frames.shape
    rate = _rate(fps)
    _check_size(width, height)
    with replacing(path) as part:
        _encode(part, frames, rate, crf, keyframe_every=math.ceil(2 * rate))


class GrowingVideo:
    """An mp4 that is a complete, playable file after every chunk, and after a kill at any instant.

    Each chunk is encoded once, by an encoder of its own, into ``segments/00007.mp4`` (one closed GOP, no B-frames);
    ``path`` is then rebuilt from all segments by stream copy and replaced in one step. What it shows therefore
    does not depend on how many processes the run took. A segment that exists is whole.
    """

    def __init__(self, path: Path, segments: Path, fps: float, width: int, height: int, crf: int = 17) -> None:
        """Open a new or an interrupted video; InputError for odd sizes (yuv420p) and for what ``check`` finds."""
        self.path, self.segments, self.crf = path, segments, crf
        self.rate = _rate(fps)
        self.width, self.height = width, height
        _check_size(width, height)
        self.check()
        for debris in segments.glob(".*.part"):
            debris.unlink()

    def check(self) -> None:
        """InputError unless both the video and its segments could be written now."""
        try:
            self.segments.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refused(self.segments, error, RESUME) from error
        check_target(self.path, RESUME)
        check_target(self._segment(0), RESUME)

    @property
    def chunks(self) -> int:
        """How many chunks, counted from the first without a gap, are on disk."""
        count = 0
        while self._segment(count).exists():
            count += 1
        return count

    def append(self, index: int, frames: UInt8[np.ndarray, "t h w 3"]) -> None:
        """Add chunk ``index``, or replace it with itself: appending the same chunk again changes nothing.

        InputError if the disk refuses (the video then still holds the chunks before) or if an earlier chunk is gone.
        """
        assert frames.shape[1:] == (self.height, self.width, 3) and len(frames) > 0, frames.shape
        check_target(self.path, RESUME)
        if index > self.chunks:
            gap = self._segment(self.chunks)
            raise InputError(f"{gap} is missing, and chunk {index} continues it; run again with --resume")
        with replacing(self._segment(index), RESUME) as part:
            _encode(part, frames, self.rate, self.crf, keyframe_every=ONE_GOP)
        self.rebuild()

    def keep(self, chunks: int) -> None:
        """Drop the segments from chunk ``chunks`` on, which a resumed run will make again; the video itself stays."""
        for index in reversed(range(chunks, self.chunks)):
            self._segment(index).unlink()

    def rebuild(self) -> None:
        """Write the video anew from its segments, without encoding."""
        with replacing(self.path, RESUME) as part:
            _concatenate([self._segment(index) for index in range(self.chunks)], part, self.rate)

    def _segment(self, index: int) -> Path:
        return self.segments / f"{index:05d}.mp4"


def _rate(fps: float) -> Fraction:
    if not (math.isfinite(fps) and fps > 0):
        raise InputError(f"{fps} frames per second is no rate; use a number above 0, such as 24")
    return Fraction(fps).limit_denominator(1001)  # 1001: the NTSC rates, 30000/1001 and kin


def _check_size(width: int, height: int) -> None:
    if width % 2 or height % 2:
        even = f"{width + width % 2}x{height + height % 2}"
        raise InputError(f"{width}x{height} has an odd side, and yuv420p pairs pixels; use {even}")


def _mp4_options(rate: Fraction) -> dict[str, str]:
    # One clock for the film and the track, a multiple of the frame rate: the default, milliseconds, rounds the length.
    ticks = str(rate.numerator * math.ceil(10_000 / rate.numerator))
    return {"movflags": "faststart", "movie_timescale": ticks, "video_track_timescale": ticks}


def _encode(part: Path, frames: UInt8[np.ndarray, "t h w 3"], rate: Fraction, crf: int, keyframe_every: int) -> None:
    with av.open(str(part), "w", format="mp4", options=_mp4_options(rate)) as out:
        stream = out.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.color_range = ColorRange.MPEG
        stream.codec_context.colorspace = Colorspace.ITU709
        stream.codec_context.color_primaries = ColorPrimaries.BT709
        stream.codec_context.color_trc = ColorTrc.BT709
        stream.codec_context.thread_count = 1  # x264's output depends on the number of threads, not on their timing
        # No scene cuts: keyframes fall only where asked, so a segment is exactly one closed GOP.
        stream.options = {"crf": str(crf), "preset": "medium", "bf": "0", "sc_threshold": "0", "g": str(keyframe_every)}
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            picture.pts, picture.duration, picture.time_base = index, 1, 1 / rate
            out.mux(stream.encode(picture))
        out.mux(stream.encode())


def _concatenate(segments: Sequence[Path], part: Path, rate: Fraction) -> None:
    """Copy the packets of all segments into one file; a packet's number is its time, as there are no B-frames."""
    with av.open(str(part), "w", format="mp4", options=_mp4_options(rate)) as out:
        copy: VideoStream | None = None
        frames = 0
        for segment in segments:
            with _opened(segment) as source:
                stream = source.streams.video[0]
                if copy is None:
                    copy = out.add_stream_from_template(stream)
                elif stream.codec_context.extradata != copy.codec_context.extradata:
                    raise InputError(
                        f"{segment} was encoded with another size, rate or quality than the chunks before it; "
                        "begin again with --overwrite"
                    )
                for packet in source.demux(stream):
                    if packet.size == 0:  # the demuxer's end mark
                        continue
                    packet.pts = packet.dts = frames
                    packet.duration, packet.time_base, packet.stream = 1, 1 / rate, copy
                    out.mux(packet)
                    frames += 1
