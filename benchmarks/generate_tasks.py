"""What `benchmarks/generate.py` measures, each task in a process of its own: `generate_tasks.py '{"task": ...}'`.

The last line of the output is a JSON object.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

SCENES = (
    "a red fox walks through a snowy forest at dawn",
    "a sailing boat crosses a calm sea under drifting clouds",
    "a hot air balloon rises over green hills in the evening",
    "a blue car drives along a desert road at noon",
)


def peak() -> float:
    """The largest resident size of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def environment(_order: dict[str, Any]) -> dict[str, Any]:
    """Versions, processor and threads."""
    from importlib.metadata import version

    import torch

    from attention import processor

    packages = ("blockvid", "diffusers", "transformers")
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **{name: version(name) for name in packages},
    }


def make_random(order: dict[str, Any]) -> dict[str, Any]:
    """A model folder of the storybook's shape with random weights."""
    import torch

    from blockvid.model.load import save_blockvid_json
    from blockvid.model.storybook_vae import StorybookVAE
    from blockvid.recipes.storybook import DEFAULTS, storybook_base

    run, folder = storybook_base(), Path(order["folder"])
    dit = run.model()
    with torch.no_grad():
        for parameter in dit.parameters():  # the fresh head predicts zero
            parameter.add_(0.02 * torch.randn_like(parameter))
    dit.save_pretrained(folder / "transformer")
    StorybookVAE().save_pretrained(folder / "vae")
    save_blockvid_json(folder, run.geometry, DEFAULTS, "minilm")
    return {}


def stream(order: dict[str, Any]) -> dict[str, Any]:
    """A whole video through `Pipeline.stream`, decoded: when each chunk was there, and the memory then."""
    began = time.perf_counter()
    import torch

    from blockvid.attention.policies import Window
    from blockvid.pipeline import Pipeline, Settings

    imported = time.perf_counter()
    pipe = Pipeline.from_pretrained(order["model"], "cpu")
    loaded = time.perf_counter()
    prompts = [SCENES[i % len(SCENES)] for i in range(order["chunks"])]
    settings = Settings(steps=order["steps"], policy=Window(2))
    seconds, frames, resident = [], 0, []
    last = loaded
    for clip in pipe.stream(prompts, settings):
        now = time.perf_counter()
        seconds.append(now - last)
        last = now
        frames += len(clip.frames)
        resident.append(peak())
    defaults, geometry = pipe.models.defaults, pipe.models.geometry
    return {
        "dtype": str(pipe.models.dit.dtype).removeprefix("torch."),
        "size": [geometry.width, geometry.height],
        "fps": geometry.fps,
        "steps": order["steps"] or defaults.steps,
        "guidance": defaults.guidance,
        "parameters": sum(p.numel() for p in pipe.models.dit.parameters()),
        "threads": torch.get_num_threads(),
        "import": imported - began,
        "load": loaded - imported,
        "seconds": seconds,
        "frames": frames,
        "peak_mb": resident,
    }


def decode(order: dict[str, Any]) -> dict[str, Any]:
    """A minute of random latents through the streaming decoder, chunk by chunk."""
    import torch

    from blockvid.model.load import load_models
    from blockvid.pipeline import to_uint8

    models = load_models(order["model"])
    geometry, before = models.geometry, peak()
    count = geometry.latent_frames(round(order["video_seconds"] * geometry.fps))
    shape = (1, geometry.latent_channels, count, geometry.latent_height, geometry.latent_width)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    decoder, frames = models.autoencoder.decoder(), 0
    began = time.perf_counter()
    for piece in latents.split(geometry.chunk_frames, dim=2):
        frames += len(to_uint8(decoder.push(piece)))
    return {"seconds": time.perf_counter() - began, "frames": frames, "before_mb": before, "peak_mb": peak()}


def route(order: dict[str, Any]) -> dict[str, Any]:
    """One route to one video of latents, after a warm-up of one step."""
    from dataclasses import replace

    import torch
    from generate_routes import ROUTES, Job

    from blockvid.model.load import load_models

    models = load_models(order["model"], "cpu", getattr(torch, order["dtype"]))
    guidance = order["guidance"]
    rows = models.text_encoder()([SCENES[0], ""][: 1 if guidance == 1 else 2]).tokens
    job = Job(models, rows, order["chunks"], order["steps"] or models.defaults.steps, guidance)
    run = ROUTES[order["route"]]
    run(replace(job, chunks=4, steps=1))
    began = time.perf_counter()
    pieces = run(job)
    return {"whole": time.perf_counter() - began, "pieces": [asdict(piece) for piece in pieces], "peak_mb": peak()}


def same_weights(order: dict[str, Any]) -> dict[str, Any]:
    """How far apart blockvid's and diffusers' velocities are, in float32."""
    from generate_routes import largest_difference

    from blockvid.model.load import load_models

    models = load_models(order["model"])
    return {"difference": largest_difference(models, models.text_encoder()([SCENES[0]]).tokens)}


TASKS = {task.__name__: task for task in (environment, make_random, stream, decode, route, same_weights)}

if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps(TASKS[asked["task"]](asked)))
