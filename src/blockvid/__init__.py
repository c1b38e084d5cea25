"""A storyboard becomes a minute-long video, chunk by chunk.

    >>> from blockvid import Pipeline, Storyboard
    >>> pipe = Pipeline.from_pretrained("storybook")
    >>> for clip in pipe.stream(Storyboard.read("examples/horse.toml")):
    ...     show(clip.frames)  # uint8 (t h w 3), as soon as the chunk is ready

Names are imported when they are first used, so that `import blockvid` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blockvid.attention.policies import DynamicSparse, Full, Semantic, SinkWindow, Window
    from blockvid.attention.storage import Storage
    from blockvid.errors import InputError
    from blockvid.evaluation.evaluate import evaluate
    from blockvid.geometry import Geometry
    from blockvid.pipeline import Clip, Pipeline, Settings
    from blockvid.storyboard import Chunk, Shot, Storyboard

_HOMES = {
    "Chunk": "storyboard",
    "Clip": "pipeline",
    "DynamicSparse": "attention.policies",
    "Full": "attention.policies",
    "Geometry": "geometry",
    "InputError": "errors",
    "Pipeline": "pipeline",
    "Semantic": "attention.policies",
    "Settings": "pipeline",
    "Shot": "storyboard",
    "SinkWindow": "attention.policies",
    "Storage": "attention.storage",
    "Storyboard": "storyboard",
    "Window": "attention.policies",
    "evaluate": "evaluation.evaluate",
}

__all__ = [
    "Chunk",
    "Clip",
    "DynamicSparse",
    "Full",
    "Geometry",
    "InputError",
    "Pipeline",
    "Semantic",
    "Settings",
    "Shot",
    "SinkWindow",
    "Storage",
    "Storyboard",
    "Window",
    "evaluate",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'blockvid' has no attribute {name!r}")
    return getattr(import_module(f"blockvid.{_HOMES[name]}"), name)
