"""Adapters train alone, begin without effect, continue bit for bit, and are merged into what is exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from blockvid.attention.attend import BlockCausal
from blockvid.attention.rope import grid_positions
from blockvid.errors import InputError
from blockvid.model.adapters import ADAPTER, fuse, save_adapter
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.training.export import export
from blockvid.training.loop import Cadence, Loop, Plan, losses_of
from blockvid.training.lora import add_lora, go_on_with
from blockvid.training.optimisation import AdamW
from blockvid.training.sharding import ALONE
from training.ranks import FRAMES, TinyAdversarial, TinySource, tiny


def adapted(folder: Path) -> Loop:
    torch.manual_seed(4)
    model = tiny()
    add_lora(model, 2)
    networks = {"model": model, **TinyAdversarial().networks(model)}
    losses = losses_of(TinyAdversarial(), TinySource(), networks, torch.device("cpu"))
    return Loop(networks, losses, Plan(3, optimiser=AdamW(1e-2), ema=0.5), folder, cadence=Cadence(log=1))


def answer(model: torch.nn.Module) -> Tensor:
    draw = torch.Generator().manual_seed(5)
    text = TextContext(torch.randn(1, 2, 5, 8, generator=draw), FRAMES, None)
    attend = BlockCausal(tiny().rope, grid_positions(5, 2, 2), (12, 8))
    with torch.no_grad():
        return model(torch.randn(1, 4, 5, 4, 4, generator=draw), torch.full((1, 5), 500.0), text, attend)


def test_adapters_train_alone_and_are_merged(tmp_path: Path) -> None:
    made = adapted(tmp_path / "run")
    model = made.networks["model"]
    assert torch.equal(answer(model), answer(tiny()))
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    assert all("lora" in name for name, p in model.named_parameters() if p.requires_grad)
    made.run()
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    assert not torch.equal(answer(model), answer(tiny()))
    (tmp_path / "base" / "vae").mkdir(parents=True)
    (tmp_path / "base" / "vae" / "config.json").write_text("{}")
    with made.average.applied(model):
        export(model, tmp_path / "out", ALONE, tmp_path / "base")
        expected = answer(model)
    exported = BlockDiT.from_pretrained(tmp_path / "out" / "transformer")
    assert [name for name, _ in exported.named_parameters()] == [name for name, _ in tiny().named_parameters()]
    torch.testing.assert_close(answer(exported), expected, rtol=1e-5, atol=1e-5)
    assert (tmp_path / "out" / "vae" / "config.json").read_text() == "{}"


def test_a_run_of_adapters_continues(tmp_path: Path) -> None:
    adapted(tmp_path / "whole").run()
    made = adapted(tmp_path / "pieces")
    made.run(stop=lambda: made.step >= 1)
    adapted(tmp_path / "pieces").run()
    ours, whole = (adapted(tmp_path / name)._tensors() for name in ("pieces", "whole"))
    assert all(torch.equal(ours[name], tensor) for name, tensor in whole.items())


def test_a_rank_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="a LoRA of rank 0"):
        add_lora(tiny(), 0)


def saved(folder: Path, *layers: str, rank: int = 2) -> Path:
    """Adapters of these layers, as a file."""
    shapes, draw = {name: module.weight.shape for name, module in linear(tiny())}, torch.Generator().manual_seed(6)
    down = {f"{name}.lora_A.weight": torch.randn(rank, shapes[name][1], generator=draw) for name in layers}
    up = {f"{name}.lora_B.weight": 0.1 * torch.randn(shapes[name][0], rank, generator=draw) for name in layers}
    save_adapter(down | up, 0.5, folder)
    return folder / ADAPTER


def linear(model: torch.nn.Module) -> list[tuple[str, torch.nn.Linear]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]


def test_adapters_go_on_from_where_a_file_left_them(tmp_path: Path) -> None:
    file = saved(tmp_path, "blocks.0.attn1.to_q", "blocks.1.ffn.net.2")
    going_on, summed = tiny(), tiny()
    go_on_with(going_on, 2, file)
    fuse(summed, file)
    torch.testing.assert_close(answer(going_on), answer(summed), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(answer(going_on), answer(tiny()), rtol=1e-5, atol=1e-5)
    assert [n for n, p in going_on.named_parameters() if p.requires_grad] == adapter_names(going_on)


def adapter_names(model: torch.nn.Module) -> list[str]:
    """All that a fresh `add_lora` would train: layers that the file leaves out learn, too."""
    fresh = tiny()
    add_lora(fresh, 2)
    assert [name for name, _ in fresh.named_parameters()] == [name for name, _ in model.named_parameters()]
    return [name for name, _ in fresh.named_parameters() if ".lora_" in name]


def test_adapters_that_cannot_go_on_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has adapters of rank 3, not 2; use --lora 3, or --lora 0"):
        go_on_with(tiny(), 2, saved(tmp_path, "blocks.0.attn1.to_q", rank=3))
    with pytest.raises(InputError, match="adapts proj_out, which is not trained by --lora"):
        go_on_with(tiny(), 2, saved(tmp_path, "proj_out"))
