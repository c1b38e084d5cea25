"""A checkpoint is complete or absent, holds what was when it was asked for, and says in a line why it is no use."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from blockvid.errors import InputError
from blockvid.training.checkpoint import (
    Checkpoints,
    load,
    newest,
    optimizer_tensors,
    recall_optimizers,
    record_of,
    require_same,
    sizes_of,
)
from blockvid.training.sharding import World


def some(value: float, size: int = 1000) -> dict[str, Tensor]:
    return {"networks.model.weight": torch.full((size,), value)}


def saved(folder: Path, *steps: int, keep: int = 2) -> Checkpoints:
    checkpoints = Checkpoints(folder, World(), keep)
    for step in steps:
        checkpoints.save(step, some(step), {"step": step})
    checkpoints.settle()
    return checkpoints


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """What a full disk does to a writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_last_ones_are_kept_and_the_newest_is_named(tmp_path: Path) -> None:
    saved(tmp_path, 2, 10, 30, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LATEST", "step-10", "step-30"]
    found = newest(tmp_path)
    assert found is not None and record_of(found) == {"step": 30}
    tensors = some(0)
    load(found, tensors, World())
    assert torch.equal(tensors["networks.model.weight"], torch.full((1000,), 30.0))


def test_what_is_saved_is_what_was(tmp_path: Path) -> None:
    """Training goes on in place while the files are written."""
    checkpoints, tensors = Checkpoints(tmp_path, World()), some(1, 1_000_000)
    checkpoints.save(1, tensors, {})
    tensors["networks.model.weight"].fill_(2)
    checkpoints.settle()
    load(tmp_path / "step-1", tensors, World())
    assert (tensors["networks.model.weight"] == 1).all()


def test_a_save_that_was_not_completed_is_as_if_it_had_not_begun(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1)
    checkpoints.save(2, some(2), {"step": 2})  # and the process ends here
    assert newest(tmp_path) == tmp_path / "step-1"
    again = Checkpoints(tmp_path, World())
    assert again.newest() == tmp_path / "step-1" and not list(tmp_path.glob("*.tmp"))


def test_a_disk_that_fills_up_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1)
    with (
        files_no_larger_than(10_000),
        pytest.raises(InputError, match=r"step 2 could not be written .* checkpoint is intact"),
    ):
        checkpoints.save(2, some(2, 1_000_000), {"step": 2})
        checkpoints.settle()
    assert newest(tmp_path) == tmp_path / "step-1"
    saved(tmp_path, 3)
    assert newest(tmp_path) == tmp_path / "step-3"


def test_too_little_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    huge = {"networks.model.weight": torch.empty(10**15, device="meta")}
    with pytest.raises(InputError, match=r"a checkpoint takes 4000000\.00 GB and .* GB free"):
        Checkpoints(tmp_path, World()).save(1, huge, {})
    assert not list(tmp_path.iterdir())


def test_other_tensors_are_refused_by_name(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    with pytest.raises(InputError, match=r"networks\.model\.weight is \(1000,\) in .*step-1 and \(7,\) here"):
        load(tmp_path / "step-1", some(0, 7), World())
    with pytest.raises(InputError, match=r"step-1 has no networks\.critic\.weight; it is of another model"):
        load(tmp_path / "step-1", {"networks.critic.weight": torch.zeros(1)}, World())


def test_the_setting_that_differs_is_named(tmp_path: Path) -> None:
    same = {"plan": {"clip": 1.0, "optimiser": {"lr": 1e-4, "betas": [0.9, 0.999]}}}
    require_same(tmp_path, same, json.loads(json.dumps(same)))
    other = {"plan": {"clip": 1.0, "optimiser": {"lr": 1e-4, "betas": [0.0, 0.999]}}}
    with pytest.raises(InputError, match=r"plan\.optimiser\.betas is \[0\.0, 0\.999\] and .* \[0\.9, 0\.999\]; use"):
        require_same(tmp_path, same, other)


def test_optimisers_remember_what_they_have_stepped_and_no_more(tmp_path: Path) -> None:
    """A parameter that has had no step yet has no memory, before and after."""
    torch.manual_seed(0)
    network = nn.ModuleDict({"used": nn.Linear(3, 2), "waiting": nn.Linear(3, 2)})
    optimizer = torch.optim.AdamW(network.parameters())
    network["used"](torch.ones(1, 3)).sum().backward()
    optimizer.step()
    tensors = optimizer_tensors("optimizers.model.", network, [optimizer])
    checkpoints = Checkpoints(tmp_path, World())
    checkpoints.save(1, tensors, {})
    checkpoints.settle()
    other = torch.optim.AdamW(network.parameters())
    memory = recall_optimizers("optimizers.model.", network, [other], sizes_of(tmp_path / "step-1"))
    load(tmp_path / "step-1", memory, World())
    assert memory.keys() == tensors.keys() and all(torch.equal(memory[name], tensors[name]) for name in tensors)
    assert network["waiting"].weight not in other.state
    assert torch.equal(
        other.state[network["used"].weight]["exp_avg"], optimizer.state[network["used"].weight]["exp_avg"]
    )


def test_nothing_to_keep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="keeping 0 checkpoints"):
        Checkpoints(tmp_path, World(), keep=0)
