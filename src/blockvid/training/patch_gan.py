"""Sharper reconstructions: a critic that compares small pieces of clips with the data's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from blockvid.errors import InputError, at_least_one
from blockvid.training.adversaries import through
from blockvid.training.discriminator import FiniteDifference
from blockvid.training.objective import Losses

Clips = Float[Tensor, "b 3 t h w"]


class PatchCritic(nn.Module):
    """Convolutions over space and time: one logit for every 4 x 4 pixels of every second frame, of what is around them.

    A logit sees 26 x 26 pixels and 12 frames, which is three latent frames of an autoencoder with a stride of four: a
    pulse at its rate is seen, a video is not recognised (PatchGAN, Isola et al. 2017, arXiv 1611.07004, with time).
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            (
                nn.Conv3d(3, width, (3, 4, 4), (1, 2, 2), (1, 1, 1)),
                nn.Conv3d(width, 2 * width, (3, 4, 4), (1, 2, 2), (1, 1, 1)),
                nn.Conv3d(2 * width, 4 * width, (4, 3, 3), (2, 1, 1), (1, 1, 1)),
                nn.Conv3d(4 * width, 4 * width, 3, padding=1),
            )
        )
        self.logit = nn.Conv3d(4 * width, 1, 1, bias=False)  # only differences of logits count

    def forward(self, clips: Clips) -> tuple[Float[Tensor, "b 1 f y x"], list[Tensor]]:
        """Logits, larger for what looks real, and the features of every layer."""
        x, features = clips, []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.logit(x), features


@dataclass(frozen=True)
class PatchGAN:
    """What a `PatchCritic` adds to the errors of pixels, whose least is a blur wherever a detail is not coded.

    Every piece of a reconstruction is paired with the same piece of the data: softplus(r - f) for the reconstruction
    and softplus(f - r) for the critic (relativistic, Jolicoeur-Martineau 2018, arXiv 1807.00734). `features` weighs
    the distance of the critic's features (feature matching, Salimans et al. 2016, arXiv 1606.03498). `steepness` weighs
    half of |d logit / d clip|^2 at the data and at reconstructions (R1 and R2; with the pairing that is R3GAN, Huang et
    al. 2024, arXiv 2501.05441), taken at every `lazy`-th step: without it a change that nobody sees fools the critic.
    For its first `alone` steps the critic learns and is not listened to. Raises InputError for a negative weight.
    """

    weight: float = 0.1
    features: float = 0.5
    steepness: float = 0.004
    lazy: int = 4
    alone: int = 80
    width: int = 48
    penalty: FiniteDifference = FiniteDifference(step=0.05)

    def __post_init__(self) -> None:
        at_least_one(self, "width", "lazy")
        for name in ("weight", "features", "steepness", "alone"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} {getattr(self, name)} is negative; use 0 for none")

    def networks(self) -> dict[str, nn.Module]:
        """The critic."""
        return {"critic": PatchCritic(self.width)}

    def __call__(
        self,
        critic: nn.Module,
        made: Clips,
        real: Clips,
        weight: Float[Tensor, "b 1 t h w"],
        step: int,
        generator: torch.Generator,
    ) -> Losses:
        """Losses of the maker ("model"), differentiable in `made` alone, and of the critic; `weight` as of pixels."""

        def look(clips: Clips) -> tuple[Tensor, list[Tensor]]:
            logits, features = critic(clips)
            return logits.float(), features

        def misses(frames: Clips) -> Float[Tensor, ""]:
            logits, features = look(frames)
            _, _, f, y, x = logits.shape
            scale = F.adaptive_avg_pool3d(weight / weight.mean(), (f, y, x))
            lead = (F.softplus(target - logits) * scale).mean()
            far = [(a.float() - b.float()).abs().mean() for a, b in zip(features, like, strict=True)]
            return self.weight * lead + self.features * torch.stack(far).sum()

        truth, seen = look(real)
        target, like = truth.detach(), [each.detach() for each in seen]
        guess, _ = look(made.detach())
        judged = F.softplus(guess - truth).mean()
        logged = {"told_apart": (truth > guess).float().mean()}
        if self.steepness and step % self.lazy == 0:
            # Every logit is a row of its own: the mean of their slopes is wanted, not the slope of their sum.
            slope = self.penalty(lambda x: look(x)[0].reshape(-1, 1), torch.cat((real, made.detach())), generator)
            judged = judged + self.lazy * self.steepness * slope  # half of each of the two, which are half of the rows
            logged["steepness"] = slope.detach()
        heard = through(misses, made) if step >= self.alone else judged.new_zeros(())
        return Losses({"model": heard, "critic": judged}, logged)
