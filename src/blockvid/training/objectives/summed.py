"""Several objectives at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blockvid.batch import Batch
from blockvid.errors import InputError
from blockvid.model.dit import BlockDiT, TextContext
from blockvid.training.objective import Losses, Objective


@dataclass(frozen=True)
class Sum:
    """The weighted sum of what `objectives` ask of the model; the paper's loss is SelfForcing + BlockForcing.

    Weights, all 1 by default, are of the model's losses: other networks have one owner each, whose loss stays as it is.
    A part that has nothing due for the model at a step adds nothing. Parts draw one after the other.
    Raises InputError if the weights don't fit, or if two parts would own a network of the same name.
    """

    objectives: tuple[Objective, ...]
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.objectives:
            raise InputError("a sum of no objectives trains nothing; give at least one")
        if self.weights and len(self.weights) != len(self.objectives):
            raise InputError(f"{len(self.objectives)} objectives and {len(self.weights)} weights; give one for each")

    def networks(self, base: BlockDiT) -> dict[str, nn.Module]:
        made: dict[str, nn.Module] = {}
        for objective in self.objectives:
            own = objective.networks(base)
            if taken := sorted(own.keys() & made.keys()):
                raise InputError(f"two objectives own a network named {taken[0]!r}; train them in runs of their own")
            made |= own
        return made

    def __call__(
        self,
        networks: Mapping[str, nn.Module],
        batch: Batch,
        empty: TextContext,
        step: int,
        generator: torch.Generator,
    ) -> Losses:
        """Logs what each part logs and what it asks of the model, under the part's name."""
        due: dict[str, Tensor] = {}
        logged: dict[str, Tensor] = {}
        weights = self.weights or (1.0,) * len(self.objectives)
        for name, objective, weight in zip(self.names, self.objectives, weights, strict=True):
            part = objective(networks, batch, empty, step, generator)
            logged |= {f"{name}.{key}": value for key, value in part.logged.items()}
            for network, loss in part.due.items():
                if network != "model":
                    due[network] = loss
                    continue
                logged[f"{name}.{network}"] = loss.detach()
                due[network] = due[network] + weight * loss if network in due else weight * loss
        return Losses(due, logged)

    @property
    def names(self) -> tuple[str, ...]:
        """One for each part: its class, numbered from the second of a class."""
        seen: Counter[str] = Counter()
        names = []
        for objective in self.objectives:
            kind = type(objective).__name__
            seen[kind] += 1
            names.append(kind if seen[kind] == 1 else f"{kind}{seen[kind]}")
        return tuple(names)
