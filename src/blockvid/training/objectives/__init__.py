"""What a training step minimises: one frozen dataclass per objective. See `training.objective.Objective`."""

from blockvid.training.objectives.block_forcing import BlockForcing
from blockvid.training.objectives.flow_matching import FlowMatching
from blockvid.training.objectives.reconstruction import Reconstruction
from blockvid.training.objectives.resampling import Resampling
from blockvid.training.objectives.summed import Sum
from blockvid.training.objectives.velocity_forcing import VelocityForcing

__all__ = ["BlockForcing", "FlowMatching", "Reconstruction", "Resampling", "Sum", "VelocityForcing"]
