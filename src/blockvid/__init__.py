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
    from blockvid.attention.policies import Full, Window
    from blockvid.errors import InputError
    from blockvid.geometry import Geometry
    from blockvid.pipeline import Clip, Pipeline, Settings, State
    from blockvid.storyboard import Chunk, Shot, Storyboard

_HOMES = {
    "Chunk": "storyboard",
    "Clip": "pipeline",
    "Full": "attention.policies",
    "Geometry": "geometry",
    "InputError": "errors",
    "Pipeline": "pipeline",
    "Settings": "pipeline",
    "Shot": "storyboard",
    "State": "pipeline",
    "Storyboard": "storyboard",
    "Window": "attention.policies",
}

__all__ = [
    "Chunk",
    "Clip",
    "Full",
    "Geometry",
    "InputError",
    "Pipeline",
    "Settings",
    "Shot",
    "State",
    "Storyboard",
    "Window",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'blockvid' has no attribute {name!r}")
    return getattr(import_module(f"blockvid.{_HOMES[name]}"), name)
