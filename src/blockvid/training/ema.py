"""The running average of a network's weights, sharded as the network is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from blockvid.training.sharding import local, parameters, plain_name


class Average:
    """average <- d average + (1 - d) weights after every step, with d = min(decay, n / (n + 10)) at the n-th.

    Trainable parameters are averaged and buffers are copied; frozen parameters are the network's own.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {n: p.detach().clone() for n, p in parameters(network).items() if p.requires_grad}
        self.buffers = {plain_name(n): b.detach().clone() for n, b in network.named_buffers()}

    def state(self) -> dict[str, Tensor]:
        """Every tensor by name, to be saved or filled in place."""
        return {**self.weights, **self.buffers}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """After the `step`-th update of the network, counted from 1."""
        new = parameters(network)
        kept, seen = [local(w) for w in self.weights.values()], [local(new[n]) for n in self.weights]
        torch._foreach_lerp_(kept, seen, 1 - min(self.decay, step / (step + 10)))
        for name, buffer in network.named_buffers():
            self.buffers[plain_name(name)].copy_(buffer)

    @contextmanager
    @torch.no_grad()
    def applied(self, network: nn.Module) -> Iterator[None]:
        """Inside, the network has the averaged weights."""
        pairs = self._pairs(network)
        _exchange(pairs)
        try:
            yield
        finally:
            _exchange(pairs)

    def _pairs(self, network: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """Averaged and present tensors, this rank's parts."""
        new, buffers = parameters(network), {plain_name(n): b for n, b in network.named_buffers()}
        weights = [(local(w), local(new[n]).detach()) for n, w in self.weights.items()]
        return weights + [(b, buffers[n]) for n, b in self.buffers.items()]


@torch.no_grad()
def _exchange(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for a, b in pairs:
        kept = a.clone()
        a.copy_(b)
        b.copy_(kept)
