"""What the pages say of VDE is what was measured."""

from __future__ import annotations

import numpy as np
import pytest

from blockvid.evaluation.evaluate import Evaluation
from blockvid.evaluation.profiles import Paper, Profile, Release, Robust
from blockvid.evaluation.report.readings import total_weight
from blockvid.evaluation.results import value


@pytest.mark.parametrize(
    "profile",
    [Release(5), Release(5, "log"), Paper("smoothness", 5), Robust(5), Robust(5, "increasing")],
    ids=str,
)
def test_vde_over_the_weights_of_the_page_is_that_of_the_record(profile: Profile) -> None:
    texture = np.kron(np.random.default_rng(0).integers(0, 255, (6, 8, 3)), np.ones((8, 8, 1)))
    frames = np.stack([np.roll(texture, t, axis=1) * (1 - t / 40) for t in range(20)]).astype(np.uint8)
    results = Evaluation(profile, "core")({"fading": (frames, 8.0)})
    clarity = results.videos[0].drift["vde_clarity@core"]
    assert value(clarity.vde) > 0
    assert value(clarity.vde) / total_weight(results) == pytest.approx(value(clarity.per_weight))
