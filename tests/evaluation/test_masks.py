"""Laws of masks: what leaves the camera's motion is the subject, and where nothing does there is none."""

from __future__ import annotations

import itertools
import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from blockvid.errors import InputError
from blockvid.evaluation.masks import Box, Mask, Masking, ResidualMotion, Segmenter, mask, residual_flow
from blockvid.evaluation.series import Picture, Window

cv2 = pytest.importorskip("cv2")
cv2.setNumThreads(1)
W, H, SIDE = 320, 192, 64


def texture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Detail at several scales."""
    rng = np.random.default_rng(seed)
    total = np.full((height, width, 3), 128.0, dtype=np.float32)
    for size in (32, 16, 8, 4):
        grid = rng.uniform(-1, 1, (height // size + 2, width // size + 2, 3)).astype(np.float32)
        total += 1.5 * size * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(total, 0, 255).astype(np.uint8)


def scene(count: int = 12, camera: int = 1, own: int = 2) -> tuple[np.ndarray, list[Box]]:
    """A camera that pans and a square that moves by itself, in pixels a frame; where the square is."""
    background, square = texture(W + 60, H), texture(SIDE, SIDE, seed=7)
    frames, boxes = [], []
    for t in range(count):
        frame = background[:, 30 + camera * t : 30 + camera * t + W].copy()
        left = 60 + own * t
        frame[80 : 80 + SIDE, left : left + SIDE] = square
        frames.append(frame)
        boxes.append(Box(80, 80 + SIDE, left, left + SIDE))
    return np.stack(frames), boxes


def window(frames: np.ndarray, start: int = 0, stop: int | None = None) -> Window:
    pictures = tuple(Picture(pixels, number, number / 16) for number, pixels in enumerate(frames))
    return Window(pictures, start, len(frames) if stop is None else stop)


def masks(frames: np.ndarray, masking: Masking | None = None) -> list[Mask]:
    return (masking or ResidualMotion()).open()(window(frames))


def overlap(found: Mask, box: Box) -> float:
    """Intersection over union."""
    inside = np.zeros((H, W), dtype=bool)
    inside[box.top : box.bottom, box.left : box.right] = True
    said = cv2.resize(found.soft, (W, H), interpolation=cv2.INTER_LINEAR) > 0.5
    return float((inside & said).sum() / (inside | said).sum())


# By motion


@pytest.mark.parametrize(("camera", "own"), [(0, 2), (1, 1), (2, 0), (-1, 2)])
def test_what_moves_against_the_camera_is_the_subject(camera: int, own: int):
    frames, boxes = scene(camera=camera, own=own)
    for found, box in zip(masks(frames), boxes, strict=True):
        assert found.found and found.area == (found.soft > 0.5).mean()
        assert overlap(found, box) > 0.5


@pytest.mark.parametrize("camera", [0, 2])
def test_where_nothing_moves_by_itself_there_is_no_subject(camera: int):
    background = texture(W + 60, H)
    for found in masks(np.stack([background[:, camera * t : camera * t + W] for t in range(8)])):
        assert math.isnan(found.area) and not found.found
        assert not found.soft.any() and found.box(H, W) is None


def test_a_subject_that_moves_as_the_background_does_is_none():
    frames, _ = scene(camera=1, own=-1)
    assert not any(found.found for found in masks(frames))


def test_rotation_and_zoom_are_the_camera():
    background = texture(W, H)
    turns = [cv2.getRotationMatrix2D((W / 2, H / 2), 0.4 * t, 1 + 0.004 * t) for t in range(8)]
    frames = np.stack([cv2.warpAffine(background, m, (W, H), borderMode=cv2.BORDER_REFLECT) for m in turns])
    assert sum(found.found for found in masks(frames)) == 0


def test_a_cut_parts_the_neighbours():
    """Frames of a shot are masked as if the other shot were not there; the pair across the cut says nothing."""
    one, _ = scene(8)
    other = np.stack([texture(W + 60, H, seed=3)[:, 2 * t : 2 * t + W] for t in range(8)])
    both = masks(np.concatenate((one, other)))
    alone = masks(one), masks(other)
    for joined, apart in zip(both, (*alone[0], *alone[1]), strict=True):
        np.testing.assert_array_equal(joined.soft, apart.soft)
    assert all(m.found for m in both[:8]) and not any(m.found for m in both[8:])


def test_masks_of_a_window_are_those_of_the_video():
    frames, _ = scene(14)
    masking, whole = ResidualMotion(neighbours=2), masks(scene(14)[0], ResidualMotion(neighbours=2))
    start, stop = 5, 9
    begin, end = start - masking.before, stop + masking.after
    part = masking.open()(window(frames[begin:end], start - begin, stop - begin))
    for found, expected in zip(part, whole[start:stop], strict=True):
        np.testing.assert_array_equal(found.soft, expected.soft)


def test_masks_are_the_same_on_every_run_and_change_slowly():
    frames, _ = scene()
    again, first = masks(frames), masks(frames)
    assert all((a.soft == b.soft).all() for a, b in zip(again, first, strict=True))
    rough = masks(frames, ResidualMotion(neighbours=0))
    change = [np.mean([abs(a.soft - b.soft).mean() for a, b in itertools.pairwise(m)]) for m in (first, rough)]
    assert change[0] < change[1]


def test_one_frame_and_tiny_frames_have_no_subject():
    for frames in (texture(W, H)[None], np.zeros((3, 20, 30, 3), np.uint8)):
        assert [m.found for m in masks(frames)] == [False] * len(frames)


def test_residual_flow_is_what_a_homography_leaves():
    here = np.dstack(np.meshgrid(np.arange(W, dtype=np.float32), np.arange(H, dtype=np.float32)))
    turn = np.array([[1.01, 0.01, -2], [-0.01, 1.0, 1], [1e-5, 0, 1]], dtype=np.float64)
    steps = cv2.perspectiveTransform(here.reshape(1, -1, 2), turn).reshape(H, W, 2) - here
    steps[40:80, 60:120] += (3.0, 4.0)
    left = residual_flow(steps.astype(np.float32), grid=8, tolerance=0.3, agreement=0.4)
    assert left is not None
    moved = np.zeros((H, W), dtype=bool)
    moved[40:80, 60:120] = True
    assert left[~moved].max() < 0.05
    np.testing.assert_allclose(left[moved], 100 * 5 / H, atol=0.05)
    noise = np.random.default_rng(0).normal(0, 20, steps.shape).astype(np.float32)
    assert residual_flow(noise, grid=8, tolerance=0.3, agreement=0.4) is None


# Boxes


def test_a_box_is_a_square_around_the_subject_inside_the_frame():
    soft = np.zeros((24, 40), dtype=np.float32)
    soft[8:12, 10:20] = 1  # rows 32..48 and columns 40..80 of 96 x 160
    found = mask(soft, 0, 1)
    box = found.box(96, 160, margin=0.0)
    assert box is not None and (box.bottom - box.top) == (box.right - box.left)
    assert box.left <= 41 and box.right >= 79 and box.top <= 32 and box.bottom >= 48
    wide = found.box(96, 160, margin=0.25)
    assert wide is not None and wide.right - wide.left == pytest.approx(1.5 * (box.right - box.left), abs=2)
    assert found.box(48, 80, margin=0.0) == Box(
        *(round(edge / 2) for edge in (box.top, box.bottom, box.left, box.right))
    )


@pytest.mark.parametrize("corner", [(0, 0), (0, 30), (14, 0), (14, 30)])
def test_a_box_never_leaves_the_frame(corner: tuple[int, int]):
    soft = np.zeros((24, 40), dtype=np.float32)
    soft[corner[0] : corner[0] + 10, corner[1] : corner[1] + 10] = 1
    box = mask(soft, 0, 1).box(96, 160, margin=0.5)
    assert box is not None
    assert 0 <= box.top < box.bottom <= 96 and 0 <= box.left < box.right <= 160
    assert box.of(np.zeros((96, 160, 3), np.uint8)).shape[:2] == (80, 80)


def test_specks_do_not_widen_a_box():
    soft = np.zeros((24, 40), dtype=np.float32)
    soft[8:18, 10:20] = 1
    alone = mask(soft, 0, 1).box(96, 160)
    soft[0, 39] = 1
    assert mask(soft, 0, 1).box(96, 160) == alone


def test_subjects_outside_the_limits_are_none():
    soft = np.zeros((10, 10), dtype=np.float32)
    soft[:2] = 1
    assert mask(soft, 0.1, 0.3).area == pytest.approx(0.2)
    assert not mask(soft, 0.21, 0.9).found and not mask(soft, 0.0, 0.19).found
    assert not mask(np.zeros((10, 10), np.float32), 0.0, 1.0).found


# By a segmenter


def varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found, number = found + bytes([number & 127 | 128]), number >> 7
    return found + bytes([number])


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """A protocol buffer: numbers as varints, bytes with their length."""
    return b"".join(
        varint(key << 3) + varint(value)
        if isinstance(value, int)
        else varint(key << 3 | 2) + varint(len(value)) + value
        for key, value in fields
    )


def value_info(name: bytes, shape: tuple[int | bytes, ...]) -> bytes:
    dimensions = [(1, message((1, side)) if isinstance(side, int) else message((2, side))) for side in shape]
    return message((1, name), (2, message((1, message((1, 1), (2, message(*dimensions)))))))


def onnx_model(path: Path, height: int | bytes = 48, width: int | bytes = 64, channels: int = 3) -> Path:
    """A model whose map is the mean over channels of its picture."""
    axes = message((1, b"axes"), (8, 1), (20, 7))
    node = message((1, b"picture"), (2, b"map"), (4, b"ReduceMean"), (5, axes))
    inputs = value_info(b"picture", (1, channels, height, width))
    graph = message((1, node), (2, b"g"), (11, inputs), (12, value_info(b"map", (1, 1, height, width))))
    path.write_bytes(message((1, 8), (7, graph), (8, message((1, b""), (2, 13)))))
    return path


def bright_square() -> np.ndarray:
    frame = np.full((H, W, 3), 20, dtype=np.uint8)
    frame[48:96, 80:160] = 220
    return frame


def test_a_segmenter_says_where_the_subject_is(tmp_path: Path):
    pytest.importorskip("onnxruntime")
    segmenter = Segmenter.of(onnx_model(tmp_path / "model.onnx"))
    (found,) = masks(bright_square()[None], segmenter)
    assert found.soft.shape == (48, 64) and found.soft.min() == 0 and found.soft.max() == 1
    assert found.area == pytest.approx(48 * 80 / (H * W), abs=0.03)
    box = found.box(H, W, margin=0.0)
    assert box is not None and box.left == pytest.approx(80, abs=6) and box.right == pytest.approx(160, abs=6)


def test_a_model_of_open_sides_gets_those_asked_for(tmp_path: Path):
    pytest.importorskip("onnxruntime")
    path = onnx_model(tmp_path / "open.onnx", b"h", b"w")
    made = Segmenter.of(path)
    (found,) = masks(bright_square()[None], Segmenter(path, made.sha256, side=80))
    assert found.soft.shape == (80, 80)


def test_logits_go_through_a_sigmoid(tmp_path: Path):
    pytest.importorskip("onnxruntime")
    made = Segmenter.of(onnx_model(tmp_path / "model.onnx"))
    logits = Segmenter(made.path, made.sha256, output="logits")
    (found,) = masks(bright_square()[None], logits)
    pixels = cv2.resize(bright_square(), (64, 48), interpolation=cv2.INTER_LINEAR) / 255
    normal = ((pixels - logits.mean) / logits.std).mean(axis=-1)
    np.testing.assert_allclose(found.soft, 1 / (1 + np.exp(-normal)), atol=1e-5)


def test_a_flat_map_is_no_subject(tmp_path: Path):
    pytest.importorskip("onnxruntime")
    (found,) = masks(np.full((1, H, W, 3), 90, np.uint8), Segmenter.of(onnx_model(tmp_path / "model.onnx")))
    assert not found.found


def test_frames_between_two_that_are_segmented_have_the_mask_of_the_last(tmp_path: Path):
    pytest.importorskip("onnxruntime")
    frames = np.stack([np.roll(bright_square(), 4 * t, axis=1) for t in range(7)])
    made = Segmenter.of(onnx_model(tmp_path / "model.onnx"))
    each, third = masks(frames, made), masks(frames, Segmenter(made.path, made.sha256, every=3))
    assert [bool((m.soft == each[t - t % 3].soft).all()) for t, m in enumerate(third)] == [True] * 7
    assert not (each[0].soft == each[1].soft).all()


def test_what_cannot_segment_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"absent\.onnx cannot be read .* name an ONNX file"):
        Segmenter.of(tmp_path / "absent.onnx")
    with pytest.raises(InputError, match=r"output 'softmax' is unknown; use range, logits"):
        Segmenter(tmp_path, "0", output="softmax")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"every 0 frames .* use 1 or more"):
        Segmenter(tmp_path, "0", every=0)
    pytest.importorskip("onnxruntime")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=r"damaged\.onnx cannot be loaded by onnxruntime .* export the model again"):
        Segmenter.of(damaged).open()
    with pytest.raises(InputError, match=r"takes \[1, 4, 48, 64\], not pictures"):
        masks(bright_square()[None], Segmenter.of(onnx_model(tmp_path / "four.onnx", channels=4)))


def test_identities_tell_models_and_settings_apart(tmp_path: Path):
    one = Segmenter.of(onnx_model(tmp_path / "one.onnx"))
    other = Segmenter.of(onnx_model(tmp_path / "other.onnx", height=32))
    ways = [one, other, Segmenter(one.path, one.sha256, every=2), ResidualMotion(), ResidualMotion(neighbours=1)]
    assert len({way.identity for way in ways}) == len(ways)
    assert one.model == one.sha256 and ResidualMotion().model is None
    assert [pickle.loads(pickle.dumps(way)) for way in ways] == ways
