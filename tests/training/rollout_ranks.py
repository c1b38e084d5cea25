"""Gradients of Self Forcing on two ranks and on one: what test_self_forcing_on_ranks.py starts under torchrun."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from blockvid.attention.policies import KeyValuePolicy, Semantic, Window
from blockvid.attention.salience import Salience
from blockvid.training.adversaries import GAN, Adversary, SiD
from blockvid.training.rollout import Rollout
from blockvid.training.self_forcing import SelfForcing
from blockvid.training.sharding import Mesh, Sharding, World, among, launched, place, plain_name, whole
from training.made_batches import EMPTY, batch, model

CPU = torch.device("cpu")
THIN = Semantic(1, 1, Salience(tau=0.6, multiple=1))
PLAIN = Window(2)  # ranks that share tokens each see some heads, and would keep other tokens


def gradients(adversary: Adversary, policy: KeyValuePolicy, world: World | None) -> dict[str, Tensor]:
    """Of both networks at a step where both are due; every block and the exits are recomputed where there are ranks."""
    objective = SelfForcing(adversary, Rollout(policy=policy, gradient_chunks=2, checkpointed=world is not None))
    networks: dict[str, nn.Module] = {"model": model()} | objective.networks(model())
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for network in networks.values():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    if world is not None:
        place(networks, world, Sharding(recompute=tuple(networks)))
    due = objective(networks, batch(), EMPTY, 0, torch.Generator().manual_seed(0)).due
    torch.stack(list(due.values())).sum().backward()
    return {
        f"{network}.{plain_name(name)}": whole(parameter.grad)
        for network, module in networks.items()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def main(out: Path) -> None:
    torch.set_num_threads(1)
    far = {}
    with launched(Mesh(1, 2, 1), CPU) as world:
        tokens = among(Mesh(1, 1, 2), CPU)
        for adversary, layout, policy in (
            (GAN(ratio=1, weight=1.0, r1=1.0), world, THIN),
            (SiD(ratio=1), tokens, PLAIN),
        ):
            two, one = gradients(adversary, policy, layout), gradients(adversary, policy, None)
            assert two.keys() == one.keys()
            distance = max(float((two[key] - one[key]).norm()) for key in one)
            far[type(adversary).__name__] = distance / max(float(slope.norm()) for slope in one.values())
        if world.rank == 0:
            (out / "far.json").write_text(json.dumps(far))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
