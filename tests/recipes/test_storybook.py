"""The recipes of the embedded model: what a step reads, and that a run writes a model that goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from blockvid.errors import InputError
from blockvid.geometry import Geometry
from blockvid.model.dit import BlockDiT
from blockvid.model.storybook_vae import StorybookVAE
from blockvid.model.weights import weight_files
from blockvid.recipes.storybook import AutoencoderRun, Corpus, Stills, TransformerRun, Windows
from blockvid.storybook.corpus import Shards
from blockvid.training.checkpoint import Checkpoints, sizes_of
from blockvid.training.loop import Plan
from blockvid.training.objectives import Reconstruction
from blockvid.training.patch_gan import PatchGAN
from blockvid.training.sharding import ALONE

GEOMETRY = Geometry(width=16, height=16, fps=8, chunk_frames=8)
LESSONS = [(Stills(4),), (Windows(2, 2),), (Windows(2, 2), Windows(3, 1, name="chunks"), Stills(4))]


def takes(chunks: int, count: int = 3) -> dict[str, torch.Tensor]:
    """A shard of numbers, with prompts of five words."""
    moments = 1 + 8 * chunks
    return {
        "latents": torch.randn(count, 16, moments, 2, 2).half(),
        "coverage": torch.rand(count, moments, 2, 2).half(),
        "tokens": torch.randn(count, chunks, 48, 384).half(),
        "mask": (torch.arange(48) < 5).expand(count, chunks, -1).contiguous(),
    }


def stills(count: int = 3) -> dict[str, torch.Tensor]:
    """A shard of numbers: four moments of each snippet, in one or two chunks."""
    made = takes(2, count)
    return made | {
        "latents": made["latents"][:, :, 1:5].contiguous(),
        "coverage": made["coverage"][:, 1:5].contiguous(),
        "chunk": torch.randint(2, (count, 4)).byte(),
    }


def corpora(folder: Path, which: tuple[int, ...] = (0, 1)) -> None:
    """Two shards of each corpus."""
    for name, make in (("takes", partial(takes, 5)), ("openings", partial(takes, 1)), ("stills", stills)):
        (folder / name).mkdir()
        for index in which:
            save_file(make(), folder / name / f"{index:05d}.safetensors")


@pytest.mark.parametrize("lessons", LESSONS, ids=lambda lessons: "-".join(lesson.name for lesson in lessons))
def test_a_run_writes_a_transformer_from_which_the_next_one_begins(
    lessons: tuple[Stills | Windows, ...], tmp_path: Path
) -> None:
    corpora(tmp_path)
    StorybookVAE(width=32, latent_width=32).save_pretrained(tmp_path / "vae")
    run = TransformerRun(
        Plan(20, ema=0.0), "first", lessons, GEOMETRY, 1, 1, 1, heads=1, head_dim=32, layers=1, workers=1
    )
    run(tmp_path)
    row = json.loads((tmp_path / "first" / "log.jsonl").read_text())
    frames = [lesson.frames(GEOMETRY) for lesson in lessons]
    parts = [row[f"{lesson.name}_loss"] for lesson in lessons]
    mean = sum(f * loss for f, loss in zip(frames, parts, strict=True)) / sum(frames)
    assert row["loss"] == pytest.approx(mean, rel=1e-4)
    first = BlockDiT.from_pretrained(tmp_path / "transformer").state_dict()
    asked: list[int] = []
    replace(run, name="second", plan=replace(run.plan, steps=1))(tmp_path, lambda: not asked.append(1))
    again = BlockDiT.from_pretrained(tmp_path / "transformer").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())


def torn(folder: Path) -> None:
    """What a killed export in place has left."""
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"half")


def test_a_run_that_has_a_checkpoint_goes_on_whatever_became_of_what_it_exported(tmp_path: Path) -> None:
    corpora(tmp_path)
    (tmp_path / "snippets").mkdir()
    save_file(snippets(), tmp_path / "snippets" / "00000.safetensors")
    vae = AutoencoderRun(Plan(2), "autoencoder", geometry=GEOMETRY, shards=1, width=32, latent_width=32, workers=1)
    transformer = TransformerRun(
        Plan(2), "stills", (Stills(4),), GEOMETRY, 1, 1, 1, heads=1, head_dim=32, layers=1, workers=1
    )
    for run, folder in ((vae, tmp_path / "vae"), (transformer, tmp_path / "transformer")):
        stops = iter((False, True))
        run(tmp_path, lambda stops=stops: next(stops))
        torn(folder)
        run(tmp_path)
        assert weight_files(folder)


def test_a_lesson_is_taught_at_the_steps_that_it_divides() -> None:
    lessons = (Stills(2), Windows(1, 2, every=3))
    run = TransformerRun(Plan(1), "third", lessons, GEOMETRY, heads=1, head_dim=32, layers=1)
    learned: dict[Corpus, Shards] = {"takes": Shards(takes(5)), "stills": Shards(stills())}
    losses = run._losses(learned, {"model": run.model()}, ALONE)
    found = [losses(step, step, torch.Generator().manual_seed(0)).logged.keys() for step in range(4)]
    assert found == [{"stills_loss", "windows_loss"}, {"stills_loss"}, {"stills_loss"}, {"stills_loss", "windows_loss"}]


def test_the_shard_after_those_learned_from_is_looked_at_and_not_learned(tmp_path: Path) -> None:
    run = TransformerRun(Plan(200, ema=0.0), "run", (Stills(4),), GEOMETRY, 1, 1, 1, heads=1, head_dim=32, layers=1)
    losses, looks = [], []
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        corpora(folder)
        for index, its_own in enumerate((0, seed)):
            torch.manual_seed(its_own)
            save_file(stills(), folder / "stills" / f"{index:05d}.safetensors")
        StorybookVAE(width=32, latent_width=32).save_pretrained(folder / "vae")
        run(folder)
        losses.append([json.loads(line)["loss"] for line in (folder / "run" / "log.jsonl").read_text().splitlines()])
        looks += [json.loads(line) for line in (folder / "run" / "unseen-stills.jsonl").read_text().splitlines()]
        assert not (folder / "run" / "unseen-windows.jsonl").exists()
    assert losses[0] == losses[1]
    assert [look["step"] for look in looks] == [0, 200, 0, 200] and all(look["unseen"] for look in looks)
    assert looks[0]["loss"] != looks[2]["loss"] and looks[1]["loss"] != looks[3]["loss"]


def snippets() -> dict[str, torch.Tensor]:
    """A shard of pictures of numbers."""
    return {
        "frames": torch.randint(256, (8, 17, 16, 16, 3), dtype=torch.uint8),
        "mask": torch.ones(8, 17, 16, 16, dtype=torch.uint8),
    }


@pytest.mark.parametrize("adversary", [None, PatchGAN(alone=0, width=4)])
def test_the_decoder_learns_alone_and_latents_stay_as_they_are(tmp_path: Path, adversary: PatchGAN | None) -> None:
    (tmp_path / "snippets").mkdir()
    save_file(snippets(), tmp_path / "snippets" / "00000.safetensors")
    run = AutoencoderRun(
        Plan(2, ema=0.0),
        "run",
        "decoder",
        GEOMETRY,
        shards=1,
        objective=Reconstruction(momentum=0.0),
        adversary=adversary,
        workers=1,
    )
    with pytest.raises(InputError, match=r"vae is missing; run `blockvid train storybook_autoencoder"):
        run(tmp_path)
    before = StorybookVAE(width=32, latent_width=32)
    before.save_pretrained(tmp_path / "vae")
    run(tmp_path)
    after = StorybookVAE.from_pretrained(tmp_path / "vae")
    clip = torch.randn(1, 3, 5, 16, 16)
    assert torch.equal(before.encode(clip)[0], after.encode(clip)[0])
    latents = torch.randn(1, 16, 2, 2, 2)
    assert not torch.equal(before.decode(latents)[0], after.decode(latents)[0])
    newest = Checkpoints(tmp_path / "run" / "checkpoints", ALONE, 2).newest()
    assert newest is not None
    assert any("networks.critic" in name for name in sizes_of(newest)) == (adversary is not None)


def test_what_is_exported_keeps_a_share_of_what_there_was(tmp_path: Path) -> None:
    """And the share is of what the run began with, over a stop."""
    StorybookVAE(width=32, latent_width=32).save_pretrained(tmp_path / "vae")
    clips = snippets()
    exported = []
    for keep in (0.0, 0.25, 1.0):
        folder = tmp_path / f"{keep}"
        (folder / "snippets").mkdir(parents=True)
        save_file(clips, folder / "snippets" / "00000.safetensors")
        shutil.copytree(tmp_path / "vae", folder / "vae")
        objective = Reconstruction(momentum=0.0)
        run = AutoencoderRun(
            Plan(1, ema=0.0), "run", "decoder", GEOMETRY, shards=1, objective=objective, keep=keep, workers=1
        )
        run(folder)
        replace(run, plan=Plan(2, ema=0.0))(folder)
        exported.append(StorybookVAE.from_pretrained(folder / "vae").state_dict())
    before = StorybookVAE.from_pretrained(tmp_path / "vae").state_dict()
    trained, mixed, kept = exported
    name = "frame_out.weight"
    assert not torch.equal(trained[name], before[name])
    for name, tensor in before.items():
        assert torch.equal(kept[name], tensor)
        torch.testing.assert_close(mixed[name], torch.lerp(tensor, trained[name], 0.75))


def test_more_than_all_cannot_be_kept() -> None:
    with pytest.raises(InputError, match=r"keep"):
        AutoencoderRun(Plan(1), "run", keep=1.5)


def test_the_autoencoder_goes_on_from_a_smaller_one(tmp_path: Path) -> None:
    before = StorybookVAE(width=32, latent_width=32, latent_blocks=1)
    before.save_pretrained(tmp_path / "vae")
    run = AutoencoderRun(Plan(2), "run", geometry=GEOMETRY, width=32, latent_width=32, latent_blocks=2)
    clip = torch.randn(1, 3, 5, 16, 16)
    assert len(run.model(tmp_path).encoder) == 2
    assert torch.equal(before.encode(clip)[0], run.model(tmp_path).encode(clip)[0])
    assert not torch.equal(before.encode(clip)[0], run.model(tmp_path / "elsewhere").encode(clip)[0])
