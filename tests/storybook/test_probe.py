"""What a window is asked, how a mirror changes it, and what the scorecard's storyboards tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from blockvid.errors import InputError
from blockvid.geometry import Geometry
from blockvid.recipes.probe import ProbeRun, answered, storybook_direction, storybook_probe, varied
from blockvid.storybook.boards import CHUNKS, FIRST_SEED, SHARES, boards
from blockvid.storybook.corpus import Snippets
from blockvid.storybook.probe import CLASSES, NOBODY, Heading, Probe, truth, window
from blockvid.storybook.scenes import HELD_OUT
from blockvid.storybook.takes import Clock, Segment, make_take
from blockvid.training.loop import Plan
from blockvid.training.optimisation import AdamW, WarmHoldFall

TAKE = make_take(
    "meadow",
    CLASSES["subject"][0],
    (Segment("walk", "left", 0.3), Segment("stand"), Segment("turn"), Segment("walk", "right", 0.3)),
)


def asked(seconds: float, visible: tuple[int, ...] = (200, 200, 200)) -> dict[str, str | None]:
    return {name: None if i < 0 else CLASSES[name][i] for name, i in truth(TAKE, seconds, visible).items()}


def test_a_window_is_asked_what_it_shows() -> None:
    assert asked(1.0) == {"subject": TAKE.subject, "scene": "meadow", "time": "day", "direction": "left"}
    assert asked(5.0)["direction"] == "none"
    assert asked(13.0)["direction"] == "right"


def test_a_window_is_not_asked_what_nobody_could_tell() -> None:
    assert asked(3.5)["direction"] is None, "two chunks"
    assert asked(0.2)["direction"] is None, "it has not begun to move"
    assert asked(9.0)["direction"] is None, "it turns"
    assert asked(1.0, (0, 3, 90)) == {"subject": None, "scene": "meadow", "time": "day", "direction": None}
    assert asked(1.0, (0, 0, 0))["subject"] == NOBODY
    dusk = replace(TAKE, clock=Clock(16.8, 0.0))
    assert truth(dusk, 1.0, (200,) * 3)["time"] == -1


def test_a_mirror_swaps_left_and_right() -> None:
    windows, wanted = torch.rand(64, 3, 3, 96, 160) * 2 - 1, torch.zeros(64, 4, dtype=torch.long)
    direction = list(CLASSES).index("direction")
    wanted[:, direction] = torch.arange(64) % 4 - 1  # not asked, left, right, none
    shown, now = varied(windows, wanted, torch.Generator().manual_seed(0))
    assert shown.shape == windows.shape
    before, after = wanted[:, direction], now[:, direction]
    swapped = after != before
    assert swapped.any() and set(before[swapped].tolist()) == {0, 1}
    assert torch.equal(after[swapped], 1 - before[swapped])
    assert torch.equal(now[:, :direction], wanted[:, :direction])


def test_windows_are_frames_half_a_second_apart_at_any_size() -> None:
    frames = torch.arange(33, dtype=torch.uint8)[:, None, None, None].expand(-1, 48, 80, 3)
    made = window(frames, torch.tensor([4, 20]), 4)
    assert made.shape == (2, 3, 3, 96, 160)
    shown = torch.tensor([[4.0, 8, 12], [20, 24, 28]]) / 127.5 - 1
    torch.testing.assert_close(made[:, :, 0, 0, 0], shown)


def test_a_shift_is_found_where_it_is() -> None:
    """The frame after is the frame before, moved: every place agrees most with the one that far away."""
    heading = Heading(3)
    keys = F.normalize(torch.randn(2, 1, 16, 24, 40, generator=torch.Generator().manual_seed(0)), dim=2)
    for x, y in ((0, 0), (5, 0), (-9, 1)):
        agreed = heading._correlated(keys, keys.roll((y, x), dims=(-2, -1)))
        best = agreed[..., 9:15, 10:30].argmax(2)
        width = 2 * heading.REACH + 1
        assert (best == (y + heading.LIFT) * width + x + heading.REACH).all()
        torch.testing.assert_close(agreed.amax(2)[..., 9:15, 10:30], torch.ones(2, 1, 6, 20))


def test_only_what_is_asked_is_answered_and_always_alike() -> None:
    torch.manual_seed(0)
    probe, windows = Probe(width=8).eval(), torch.rand(2, 3, 3, 96, 160) * 2 - 1
    every = probe(windows)
    assert list(every) == list(CLASSES)
    for questions in (("direction",), ("scene", "time"), ("subject", "direction")):
        some = probe(windows, questions)
        assert set(some) == set(questions)
        assert all(torch.equal(some[name], every[name]) for name in questions)


def test_unasked_questions_cost_nothing() -> None:
    logits: dict[str, Tensor] = {name: torch.randn(3, len(answers)) for name, answers in CLASSES.items()}
    wanted = torch.full((3, 4), -1)
    assert answered(logits, wanted).due["model"] == 0
    wanted[1, 0] = int(logits["subject"][1].argmax())
    found = answered(logits, wanted)
    assert found.due["model"] > 0 and found.logged["subject"] == 1 and found.logged["scene"] == 0
    assert answered({"time": logits["time"]}, wanted).logged.keys() == {"time"}


@pytest.mark.parametrize("questions", [("direction",), ("subject", "scene", "time")])
def test_a_run_learns_what_it_is_asked_and_leaves_the_rest(tmp_path: Path, questions: tuple[str, ...]) -> None:
    geometry = Geometry(width=16, height=16, fps=8, chunk_frames=8)
    (tmp_path / "probe_snippets").mkdir()
    save_file(Snippets(geometry, split="every")(0), tmp_path / "probe_snippets" / "00000.safetensors")
    torch.manual_seed(1)
    before = Probe(width=8)
    before.save_pretrained(tmp_path / "probe")
    plan = Plan(2, optimiser=AdamW(lr=1e-2), rate=WarmHoldFall(warmup=1), ema=0.0)
    run = ProbeRun(plan, geometry, shards=1, questions=questions, batch=16, width=8, device="cpu")
    stops = iter((False, True))
    run(tmp_path, lambda: next(stops))
    (tmp_path / "probe" / "diffusion_pytorch_model.safetensors").write_bytes(b"half")  # its checkpoint is whole
    run(tmp_path)
    after = Probe.from_pretrained(tmp_path / "probe").state_dict()
    for part in ("heading", "body", "heads"):
        of = [name for name in after if name.startswith(f"{part}.")]
        changed = [not torch.equal(after[name], before.state_dict()[name]) for name in of]
        assert all(changed) if (part == "heading") == ("direction" in questions) else not any(changed), part


def test_directions_are_learned_in_the_folder_of_a_finished_probe() -> None:
    """Their steps are their own: those of a run of all questions would be taken for theirs."""
    every, directions = storybook_probe(), storybook_direction()
    assert directions.questions == ("direction",) and set(every.questions) == set(CLASSES)
    assert directions.run != every.run


def test_a_saved_probe_reads_as_before_and_only_its_own_cast(tmp_path: Path) -> None:
    torch.manual_seed(0)
    probe = Probe(width=8).eval()
    frames = torch.randint(256, (32, 96, 160, 3), dtype=torch.uint8)
    probe.save_pretrained(tmp_path)
    again = Probe.from_pretrained(tmp_path)
    assert again.read(frames, 8.0) == probe.read(frames, 8.0)
    with pytest.raises(InputError, match=r"20 frames are too few .* give 31"):
        probe.read(frames[:20], 8.0)
    with pytest.raises(InputError, match="another cast"):
        Probe(8, {"subject": ["nobody"]})


@pytest.mark.parametrize("seed", [FIRST_SEED, 800_000])
def test_the_boards_are_unseen_pairs_and_say_what_their_kind_says(seed: int) -> None:
    made = boards(seed)
    assert [board.kind for board in made] == [kind for kind, share in SHARES.items() for _ in range(share)]
    for board in made:
        takes = {take.seed: take for take, _ in board.film.told}
        first = board.film.told[0][0]
        actions = [take.segments[index].action for take, index in board.film.told]
        assert len(board.film.told) == CHUNKS and [index for _, index in board.film.told] == list(range(CHUNKS))
        assert (first.subject, first.scene) in HELD_OUT
        assert len({take.subject for take in takes.values()}) == 1
        assert len({take.scene for take in takes.values()}) == (2 if board.kind == "change" else 1)
        assert ("absent" in actions) == (board.kind == "return")
        assert len(board.storyboard.shots) == CHUNKS
        for chunk, action in enumerate(actions):
            subject = board.expected(chunk)["subject"]
            assert subject == {"absent": NOBODY, "leave": None, "return": None}.get(action, first.subject)


def test_other_seeds_give_other_boards() -> None:
    assert not {take.seed for board in boards() for take, _ in board.film.told} & {
        take.seed for board in boards(800_000) for take, _ in board.film.told
    }


class Entering(Probe):
    """Sees nobody in the first two windows and a walk to the left in the others; surest of there being no direction."""

    def forward(self, windows: Tensor, questions: Sequence[str] = ()) -> dict[str, Tensor]:
        found = {name: torch.zeros(len(windows), len(answers)) for name, answers in CLASSES.items()}
        found["subject"][:2, CLASSES["subject"].index(NOBODY)] = 20.0
        found["subject"][2:, 0] = 30.0
        found["direction"][:2, CLASSES["direction"].index("none")] = 9.0
        found["direction"][2:, CLASSES["direction"].index("left")] = 3.0
        return found


def test_windows_in_which_nobody_is_seen_do_not_tell_a_direction() -> None:
    answers = Entering(width=8).read(torch.zeros(32, 96, 160, 3, dtype=torch.uint8), 8.0).answers
    assert answers["subject"] == CLASSES["subject"][0] and answers["direction"] == "left"
