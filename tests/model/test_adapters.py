"""A folder of adapters is its base with what they add, and says so."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from blockvid.errors import InputError
from blockvid.geometry import Geometry
from blockvid.model.adapters import ADAPTER, fuse, save_adapter
from blockvid.model.dit import BlockDiT
from blockvid.model.load import Defaults, describe_models, load_models, save_blockvid_json
from blockvid.training.export import export
from blockvid.training.lora import add_lora
from blockvid.training.sharding import ALONE

if TYPE_CHECKING:
    from tiny_models import Tiny

pytest_plugins = ["tiny_models"]
FAST = Defaults(steps=5, guidance=1.0, shift=4.0, negative_prompt="", solver="euler")
LAYER = "blocks.0.attn1.to_q"


def network() -> BlockDiT:
    from tiny_models import transformer

    return transformer(BlockDiT, text_dim=384)


@pytest.fixture
def exported(storybook: Tiny, tmp_path: Path) -> Path:
    """What training with adapters of rank 3 and a scale of their own exports, its card named for the base."""
    model = network()
    add_lora(model, 3, alpha=1.5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_(std=0.1)
    export(model, tmp_path, ALONE, storybook.folder)
    g = Geometry(width=32, height=32, fps=8, chunk_frames=2)
    save_blockvid_json(tmp_path, g, FAST, "minilm")
    save_blockvid_json(tmp_path / "adapter", g, FAST, "minilm", str(storybook.folder))
    return tmp_path


def test_added_they_are_the_merged_model(exported: Path, storybook: Tiny) -> None:
    merged, added, base = (load_models(str(path)) for path in (exported, exported / "adapter", storybook.folder))
    changed = 0
    for name, weight in merged.dit.state_dict().items():
        torch.testing.assert_close(added.dit.state_dict()[name], weight, rtol=1e-5, atol=1e-6)
        changed += not torch.equal(weight, base.dit.state_dict()[name])
    assert changed == 2 * 10  # four projections of each attention, and two layers of the feed-forward, in two blocks
    assert added.defaults == FAST != base.defaults
    assert added.folder == storybook.folder
    assert len({models.fingerprint for models in (merged, added, base)}) == 3


def test_low_precision_rounds_the_sum(exported: Path) -> None:
    merged = load_models(str(exported)).dit.get_submodule(LAYER).weight
    added = load_models(str(exported / "adapter"), dtype=torch.bfloat16).dit.get_submodule(LAYER).weight
    assert added.dtype == torch.bfloat16
    assert (added == merged.bfloat16()).float().mean() > 0.99


def test_other_adapters_are_another_model(exported: Path) -> None:
    before = load_models(str(exported / "adapter")).fingerprint
    assert load_models(str(exported / "adapter")).fingerprint == before
    path = exported / "adapter" / ADAPTER
    save_file({name: 2 * tensor for name, tensor in load_file(path).items()}, path)
    assert load_models(str(exported / "adapter")).fingerprint != before


def test_strength_says_how_much_of_them_is_added(exported: Path, storybook: Tiny) -> None:
    card = exported / "adapter" / "blockvid.json"
    weak, full, base = {}, load_models(str(exported / "adapter")), load_models(str(storybook.folder))
    for strength in (0.0, 1.0, 1.5):
        card.write_text(json.dumps(json.loads(card.read_text()) | {"strength": strength}))
        weak[strength] = load_models(str(exported / "adapter"))
    began, added = (models.dit.get_submodule(LAYER).weight for models in (base, full))
    for strength, models in weak.items():
        torch.testing.assert_close(models.dit.get_submodule(LAYER).weight, torch.lerp(began, added, strength))
        assert (models.fingerprint == full.fingerprint) == (strength == 1)


def test_what_their_card_leaves_out_is_their_bases(exported: Path, storybook: Tiny) -> None:
    """So a LoRA of somebody else's takes a card of one line."""
    card, base = exported / "adapter" / "blockvid.json", load_models(str(storybook.folder))
    card.write_text(json.dumps({"base": str(storybook.folder), "defaults": {"steps": 4}}))
    added = load_models(str(exported / "adapter"))
    assert added.defaults == replace(base.defaults, steps=4)
    assert (added.geometry, added.text) == (base.geometry, base.text)
    card.write_text(json.dumps({"base": str(storybook.folder), "geometry": {"width": "wide"}}))
    with pytest.raises(InputError, match=r"geometry\.width 'wide': Input should be a valid integer; correct it"):
        load_models(str(exported / "adapter"))


@pytest.mark.parametrize("change", [{"strength": "much"}, {"strength": float("nan")}, {"strength": 1.0, "base": None}])
def test_no_strength_of_adapters(exported: Path, change: dict[str, object]) -> None:
    card = exported / "adapter" / "blockvid.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | change))
    with pytest.raises(InputError, match=r"strength|base") as refusal:
        load_models(str(exported / "adapter"))
    assert "; " in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_base_may_be_named_by_a_path_from_the_folder(exported: Path) -> None:
    card = exported / "adapter" / "blockvid.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"base": ".."}))
    assert load_models(str(exported / "adapter")).folder.resolve() == exported.resolve()


def test_adapters_may_be_on_a_hub(
    exported: Path, storybook: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is downloaded of a repository of adapters is what loading one needs."""
    import huggingface_hub

    def snapshot(repository: str, allow_patterns: list[str], local_files_only: bool = False) -> str:
        assert repository == "someone/adapters" and local_files_only
        for file in (exported / "adapter").iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                (tmp_path / "hub").mkdir(exist_ok=True)
                shutil.copy(file, tmp_path / "hub")
        return str(tmp_path / "hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert load_models("someone/adapters").fingerprint == load_models(str(exported / "adapter")).fingerprint


def test_their_shapes_are_told_without_weights(exported: Path) -> None:
    (exported / "adapter" / ADAPTER).unlink()
    assert describe_models(str(exported / "adapter")).defaults == FAST
    with pytest.raises(InputError, match=f"{ADAPTER} is missing"):
        load_models(str(exported / "adapter"))


def test_alpha_over_rank_scales(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(1)
    down, up = torch.randn(2, 32, generator=draw), torch.randn(32, 2, generator=draw)
    pair = {f"{LAYER}.lora_A.weight": down, f"{LAYER}.lora_B.weight": up}
    save_adapter(pair, 1.0, tmp_path)
    tensors = load_file(tmp_path / ADAPTER)
    save_file(tensors | {f"transformer.{LAYER}.alpha": torch.tensor(3.0)}, tmp_path / ADAPTER)
    changed = network()
    fuse(changed, tmp_path / ADAPTER)
    expected = network().get_submodule(LAYER).weight + 1.5 * up @ down
    torch.testing.assert_close(changed.get_submodule(LAYER).weight, expected)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "holds no adapters"),
        ({"blocks.0.self_attn.q.lora_down.weight": (2, 32)}, "no part of a LoRA in diffusers' form"),
        ({f"transformer.{LAYER}.lora_A.weight": (2, 32)}, "no linear layer of its base, or by half"),
        ({f"transformer.x.lora_{part}.weight": (32, 32) for part in "AB"}, "adapts x, no linear layer"),
        (
            {f"transformer.{LAYER}.lora_A.weight": (2, 64), f"transformer.{LAYER}.lora_B.weight": (32, 2)},
            r"by \(32, 2\) times \(2, 64\), and its base has \(32, 32\) there",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(tensors: dict[str, tuple[int, ...]], message: str, tmp_path: Path) -> None:
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, tmp_path / ADAPTER)
    model, before = network(), network().state_dict()
    with pytest.raises(InputError, match=message):
        fuse(model, tmp_path / ADAPTER)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_adapters_of_adapters_are_refused(exported: Path, tmp_path: Path) -> None:
    g = Geometry(width=32, height=32, fps=8, chunk_frames=2)
    (tmp_path / "again").mkdir()
    save_blockvid_json(tmp_path / "again", g, FAST, "minilm", str(exported / "adapter"))
    with pytest.raises(InputError, match="which is adapters itself; name the model they are for"):
        load_models(str(tmp_path / "again"))
