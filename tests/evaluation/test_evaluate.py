"""Laws of an evaluation: how it is carried out changes no number, and one bad video costs one row."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from blockvid.errors import InputError
from blockvid.evaluation.evaluate import Evaluation, Progress, evaluate
from blockvid.evaluation.metric import Metric
from blockvid.evaluation.profiles import Paper, Release
from blockvid.evaluation.results import Results, VideoRecord
from blockvid.evaluation.rows import StorageError, Store
from blockvid.evaluation.scorers.spans import frames, mean_of
from blockvid.evaluation.series import Caption
from blockvid.evaluation.sources import sources
from blockvid.video import write_video
from command_line import interruptible
from tiny_metrics import Unready, die, miscalculate, ramp, red, refuse, tiny, violate, with_fault

VIDEOS = {f"v{n}": (ramp(10 + 3 * n, start=7 * n), 8.0) for n in range(5)}


def of(cache: Path | None = None, log: Path | None = None, **options: object) -> Evaluation:
    return Evaluation(metrics=tiny(log), cache=cache, **options)  # type: ignore[arg-type]


def by_name(results: Results) -> dict[str, VideoRecord]:
    return {video.name: video for video in results.videos}


def reasons(results: Results) -> dict[str, str | None]:
    return {video.name: video.reason for video in results.videos if video.status == "failed"}


@pytest.fixture(scope="module")
def plain() -> Results:
    return of()(VIDEOS)


# How it is carried out


@pytest.mark.parametrize("options", [{"workers": 3}, {"batch": 3}, {"workers": 2, "batch": 1, "threads": 1}])
def test_workers_batches_and_threads_change_no_number(plain: Results, options: dict):
    again = of(**options)(VIDEOS)
    assert again.videos == plain.videos
    assert (again.summary, again.quantities, again.metrics) == (plain.summary, plain.quantities, plain.metrics)


def test_records_are_in_the_order_of_the_videos(plain: Results):
    assert [video.name for video in plain.videos] == list(VIDEOS)
    assert [video.name for video in of()(dict(reversed(VIDEOS.items()))).videos] == list(reversed(VIDEOS))


def test_a_file_scores_as_its_frames(tmp_path: Path):
    write_video(tmp_path / "clip.mp4", ramp(30, 32, 48), 12.0)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    (file,), (memory,) = of()(tmp_path).videos, of()({"clip.mp4": (decoded, 12.0)}).videos
    assert file.model_copy(update={"path": "", "sha256": memory.sha256}) == memory
    assert file.path == str(tmp_path / "clip.mp4")


def test_another_cut_weight_or_profile_decodes_and_computes_nothing(tmp_path: Path):
    log, read = tmp_path / "log", []
    of(tmp_path / "cache", log)(VIDEOS)
    rows = log.read_text()
    for profile in (Release(5), Release(7, "log", "spread"), Paper()):
        again = of(tmp_path / "cache", log, profile=profile)(VIDEOS, watch=lambda p: read.append(p.frames))
        assert again.videos == of(profile=profile)(VIDEOS).videos
    assert set(read) == {0}
    assert log.read_text() == rows


def test_without_a_cache_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    of()({"one": (ramp(3), 8.0)})
    assert list(tmp_path.iterdir()) == []


# Interruptions

VICTIM = """
import os, signal, sys
from pathlib import Path
from blockvid.evaluation.evaluate import Evaluation
from test_evaluate import VIDEOS
from tiny_metrics import tiny

folder, stop, kind, workers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])

def watch(progress):
    if progress.frames >= stop:
        os.kill(os.getpid(), kind)

if __name__ == "__main__":
    log = folder / "log"
    Evaluation(metrics=tiny(log), cache=folder / "cache", workers=workers)(VIDEOS, watch=watch)
"""


def victim(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(here), str(here.parent)))}
    script = folder / "victim.py"
    script.write_text(VICTIM)
    command = [sys.executable, str(script), str(folder), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, preexec_fn=interruptible, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("stop", "kind", "workers"),
    [(1, signal.SIGKILL, 1), (30, signal.SIGKILL, 1), (30, signal.SIGINT, 1), (30, signal.SIGINT, 2)],
)
def test_killed_and_run_again_nothing_is_done_twice_and_nothing_is_lost(
    tmp_path: Path, plain: Results, stop: int, kind: int, workers: int
):
    process = victim(tmp_path, stop, kind, workers)
    _, error = process.communicate(timeout=120)
    assert process.returncode == -kind, error
    log = tmp_path / "log"
    before = len(log.read_text().split()) if log.exists() else 0
    assert before < sum(len(frames) for frames, _ in VIDEOS.values())
    again = of(tmp_path / "cache", log)(VIDEOS)
    assert again.videos == plain.videos
    total = sum(len(frames) for frames, _ in VIDEOS.values())
    twice = len(log.read_text().split()) - total
    assert 0 <= twice <= 8 * workers, "at most the batch that each was at"


def test_two_evaluations_of_the_same_videos_share_the_work(tmp_path: Path, plain: Results):
    processes = [victim(tmp_path, 10**9, signal.SIGKILL, 1) for _ in range(2)]
    for process in processes:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    assert len((tmp_path / "log").read_text().split()) == sum(len(frames) for frames, _ in VIDEOS.values())
    assert of(tmp_path / "cache")(VIDEOS).videos == plain.videos


def test_what_watches_may_stop_it_and_workers_end(tmp_path: Path):
    def stop(progress: Progress) -> None:
        if progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        of(tmp_path / "cache", workers=2)(VIDEOS, watch=stop)
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    if children.exists():
        names = [Path(f"/proc/{child}/cmdline").read_text() for child in children.read_text().split()]
        assert not [name for name in names if "spawn_main" in name]


# Videos that cannot be scored


def test_a_broken_file_has_a_row_with_its_reason_and_spoils_nothing(tmp_path: Path):
    write_video(tmp_path / "a.mp4", ramp(12, 32, 32), 8.0)
    write_video(tmp_path / "d.mp4", ramp(12, 32, 32, 3), 8.0)
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:900])
    (tmp_path / "c.mp4").write_text("not a video")
    results = of()(tmp_path)
    assert [video.status for video in results.videos] == ["scored", "failed", "failed", "scored"]
    assert set(reasons(results)) == {"b.mp4", "c.mp4"}
    assert all((reason or "").startswith(str(tmp_path / name)) for name, reason in reasons(results).items())
    alone = of()([tmp_path / "a.mp4", tmp_path / "d.mp4"])
    assert [video for video in results.videos if video.status == "scored"] == list(alone.videos)
    assert results.summary["clarity@core"].missing == 2
    assert results.summary["clarity@core"].mean == alone.summary["clarity@core"].mean


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [(refuse, "red is not scored; use another colour"), (miscalculate, "IndexError: index 3 is out of bounds")],
)
def test_a_video_that_a_scorer_cannot_handle_fails_alone(workers: int, fault: Callable[[], None], reason: str):
    videos = {"a": (ramp(12), 8.0), "b": (red(12), 8.0), "c": (ramp(13), 8.0)}
    results = Evaluation(metrics=with_fault(fault), workers=workers)(videos)
    assert reasons(results) == {"b": reason}
    assert by_name(results)["c"].status == "scored"


def test_a_process_that_dies_costs_its_video_only(tmp_path: Path):
    videos = {name: (ramp(12, start=n), 8.0) for n, name in enumerate("abcd")} | {"x": (red(12), 8.0)}
    first = dict(reversed(videos.items()))
    results = Evaluation(metrics=with_fault(die), workers=2)(first)
    assert list(reasons(results)) == ["x"]
    assert "killed by signal 9 (out of memory?); run again with fewer workers" in (reasons(results)["x"] or "")
    assert [video.name for video in results.videos] == list(first)


def test_a_mistake_of_ours_is_shown_and_costs_one_row(capfd: pytest.CaptureFixture[str]):
    videos = {"a": (ramp(12), 8.0), "b": (red(12), 8.0), "c": (ramp(13), 8.0)}
    results = Evaluation(metrics=with_fault(violate), workers=2)(videos)
    assert reasons(results) == {"b": "AssertionError: this cannot be"}
    assert "in violate" in capfd.readouterr().err
    with pytest.raises(AssertionError):
        Evaluation(metrics=with_fault(violate))(videos)


def test_weights_that_are_missing_stop_it_before_any_work(tmp_path: Path):
    log = tmp_path / "log"
    unready = Metric("x", "light", "X", "x", (Unready(),), mean_of("unready.x", frames))
    for workers in (1, 2):
        with pytest.raises(InputError, match="weights of unready are nowhere"):
            Evaluation(metrics=(*tiny(log), unready), workers=workers)(VIDEOS)
    assert not log.exists()


def test_a_disk_that_refuses_stops_it(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="name another cache"):
        of(tmp_path / "file")(VIDEOS)
    for source in sources(VIDEOS):
        (Store(tmp_path / "cache").video(source.sha256()).folder / "lock").mkdir(parents=True)
    for workers in (1, 2):
        with pytest.raises(StorageError, match=r"\(Is a directory\); free space there or name another cache"):
            of(tmp_path / "cache", workers=workers)(VIDEOS)


# Videos of every kind


def test_one_frame_few_frames_and_none():
    videos = {"none": (ramp(0), 8.0), "one": (ramp(1), 8.0), "few": (ramp(9), 8.0), "ten": (ramp(10), 8.0)}
    results = of()(videos)
    found = by_name(results)
    assert reasons(results) == {"none": "none has 0 frames; give at least one"}
    assert found["one"].scores["clarity@core"] == pytest.approx(ramp(1).mean())
    assert found["one"].scores["exposure@core"] is None, "there is no triple"
    assert [len(found[name].segments) for name in ("one", "few", "ten")] == [0, 0, 10]
    assert [len(found[name].drift) for name in ("one", "few", "ten")] == [0, 0, 2]
    assert [warning.kind for warning in found["few"].warnings][:1] == ["short"]
    assert (found["one"].frames, found["one"].seconds) == (1, 0.125)
    Results.model_validate_json(results.text())


@pytest.mark.parametrize("size", [(33, 25), (1, 1)])
def test_odd_sizes(size: tuple[int, int]):
    (video,) = of()({"odd": (ramp(12, *size), 8.0)}).videos
    assert (video.height, video.width, video.status) == (*size, "scored")


def test_at_a_variable_rate_time_decides(tmp_path: Path):
    moments = [*range(0, 1000, 100), *range(1000, 2000, 25)]  # 10 frames in a second, then 40
    pixels = [np.full((16, 16, 3), 50 if moment < 1000 else 200, np.uint8) for moment in moments]
    with av.open(str(tmp_path / "clip.mkv"), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width = stream.height = 16
        stream.pix_fmt = "bgr0"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for moment, picture in zip(moments, pixels, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = moment, Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    (video,) = of(profile=Paper(segments=2))(tmp_path).videos
    assert (video.variable_rate, video.frames) == (True, 50)
    assert video.seconds == pytest.approx(2.0)
    assert video.fps == pytest.approx(25, rel=0.01)
    assert video.segment_scores["clarity@core"] == (50, 200)


def test_every_other_frame(tmp_path: Path):
    (video,) = of(stride=2)({"x": (ramp(41), 8.0)}).videos
    assert video.scores["clarity@core"] == pytest.approx(ramp(41)[::2].mean(), rel=1e-6)
    assert (video.frames, video.fps) == (41, 8.0)
    assert of(stride=2)(VIDEOS).configuration.stride == 2


# What is recorded


def test_golden_drift_from_pixels():
    def levels(*of: int) -> np.ndarray:
        return np.repeat(np.array(of, np.uint8), 4)[:, None, None, None] * np.ones((1, 6, 8, 3), np.uint8)

    videos = {"still": (levels(*[100] * 10), 8.0), "step": (levels(100, *[110] * 9), 8.0)}
    found = by_name(of()(videos))
    assert found["still"].drift["vde_clarity@core"].vde == 0
    assert found["step"].drift["vde_clarity@core"].vde == pytest.approx(4.5)
    assert found["step"].drift["vde_clarity@core"].per_weight == pytest.approx(0.1)


def test_quantities_name_their_metric_and_what_is_absent(plain: Results):
    assert {q.key: q.metric for q in plain.quantities} == {
        "vde_motion@light:01234567": "motion_smoothness@light:01234567",
        "vde_clarity@core": "clarity@core",
    }
    assert plain.absent["vde_aesthetic"] == "aesthetic_quality"
    assert set(plain.absent) == {"vde_subject", "vde_background", "vde_aesthetic", "vde_dynamic"}
    assert plain.provenance.models == {"colour+brightness": "0123456789abcdef"}
    assert plain.values("vde_clarity@core").keys() == VIDEOS.keys()


def test_summaries_are_of_the_videos(plain: Results):
    assert set(plain.summary) == {
        *(metric.key for metric in plain.metrics),
        *(f"{quantity.key}{of}" for quantity in plain.quantities for of in ("", "/weight", "/robust")),
    }
    values = list(plain.values("vde_clarity@core").values())
    assert plain.summary["vde_clarity@core"].mean.value == pytest.approx(np.mean(values))
    assert plain.summary["vde_clarity@core/weight"].mean.value == pytest.approx(np.mean(values) / 45)
    assert plain.summary["clarity@core"].videos == 5


def test_the_result_survives_its_file(plain: Results, tmp_path: Path):
    (tmp_path / "results.json").write_text(plain.text())
    assert Results.read(tmp_path) == plain
    assert json.loads(plain.text())["configuration"]["profile"] == "release"


def test_stills_are_beside_the_results(tmp_path: Path):
    write_video(tmp_path / "a b.mp4", ramp(24, 32, 32), 8.0)
    results = of(stills=tmp_path / "run" / "stills")(tmp_path / "a b.mp4")
    (video,) = results.videos
    assert [still.seconds for still in video.stills] == [n / 2 for n in range(6)]
    assert all((tmp_path / "run" / still.file).is_file() for still in video.stills)
    assert video.stills[1].file == f"stills/a_b.mp4-{(video.sha256 or '')[:8]}/000000500.jpg"
    assert of()(tmp_path / "a b.mp4").videos[0].stills == ()


def told(series: object, span: range, footage: object) -> float:
    """A score that says what it was told."""
    borders, captions = footage.borders, footage.captions  # type: ignore[attr-defined]
    return float(sum(borders) + 100 * len(captions))


def test_captions_and_borders_are_of_their_video():
    metric = replace(tiny()[0], score=told)
    results = Evaluation(metrics=(metric,))(
        VIDEOS, captions={"v1": [Caption(0, 1, "a fox"), Caption(1, 2, "an owl")]}, borders={"v2": (3, 6, 99)}
    )
    assert [video.scores["clarity@core"] for video in results.videos] == [0, 200, 9, 0, 0]
    assert by_name(results)["v1"].prompts == ("a fox", "an owl")
    for wrong in ({"captions": {"v9": ()}}, {"borders": {"v9": ()}}):
        with pytest.raises(InputError, match="'v9' is none of the videos"):
            of()(VIDEOS, **wrong)


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_only_grows_and_ends_where_it_should(workers: int):
    seen: list[Progress] = []
    of(workers=workers)({**VIDEOS, "bad": (ramp(0), 8.0)}, watch=seen.append)
    total = sum(len(frames) for frames, _ in VIDEOS.values())
    for earlier, later in pairwise(seen):
        assert (earlier.done, earlier.frames) <= (later.done, later.frames)
        assert later.elapsed >= earlier.elapsed
    assert {progress.expected for progress in seen} == {total}
    assert all(len(progress.running) <= workers for progress in seen)
    assert (seen[0].frames, seen[0].done, seen[0].failed, seen[0].remaining) == (0, 1, 1, None)
    assert (seen[-1].frames, seen[-1].done, seen[-1].running, seen[-1].remaining) == (total, 6, (), 0)
    assert Counter(progress.video.name for progress in seen if progress.video) == Counter(VIDEOS.keys())


def test_what_makes_no_sense_is_refused():
    for wrong in ({"stride": 0}, {"workers": 0}, {"batch": 0}):
        with pytest.raises(InputError, match="is less than 1; use 1 or more"):
            of(**wrong)
    with pytest.raises(InputError, match="profile 'vbench' is unknown"):
        evaluate(VIDEOS, "vbench", "core")
    with pytest.raises(InputError, match="tier 'heavy' is unknown"):
        evaluate(VIDEOS, tier="heavy")  # type: ignore[arg-type]


def test_the_short_form_is_the_long_one(tmp_path: Path):
    videos = {"x": (ramp(20, 48, 48), 8.0)}
    long = Evaluation(Release(5))(videos)
    named, given = evaluate(videos, tier="core", segments=5), evaluate(videos, Release(5), "core", cache=tmp_path)
    assert named.videos == given.videos == long.videos
    assert not [score for score in long.videos[0].scores.values() if isinstance(score, float) and math.isnan(score)]


def test_recomputing_takes_milliseconds_a_video(tmp_path: Path):
    videos = {f"v{n}": (ramp(2000, 4, 4, n), 24.0) for n in range(10)}
    of(tmp_path)(videos)
    began = time.perf_counter()
    of(tmp_path, profile=Paper(segments=20))(videos)
    assert time.perf_counter() - began < 3, "a busy machine; 0.15 s on an idle one"
