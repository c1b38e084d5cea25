"""Copy a trained storybook folder into the package, in float16: python scripts/ship_storybook.py runs/storybook.

Of a run of `storybook_distill` its adapters are copied, with their card: they are the model "storybook-fast", of which
`--strength` says how much is added.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
import tyro
from safetensors.torch import load_file, save_file

from blockvid.errors import InputError
from blockvid.model.adapters import ADAPTER
from blockvid.model.load import CARD, EMBEDDED, STORYBOOK

WEIGHTS = "diffusion_pytorch_model.safetensors"


def main(run: tyro.conf.Positional[Path], strength: float = 1.0) -> None:
    """Replace the shipped weights by those that the folder `run` has, keeping their model card (README.md)."""
    if (run / "adapter" / ADAPTER).exists():
        ship_adapters(run / "adapter", strength)
        return
    parts = [part for part in ("transformer", "vae", "probe") if (run / part / WEIGHTS).exists()]
    if not parts:
        raise InputError(f"{run} has no transformer, vae or probe; name the --out of `blockvid train storybook_base`")
    for part in parts:
        (STORYBOOK / part).mkdir(parents=True, exist_ok=True)
        config = json.loads((run / part / "config.json").read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)  # a path of the machine that trained it
        (STORYBOOK / part / "config.json").write_text(
            json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )
        tensors = load_file(run / part / WEIGHTS)
        halved = {name: tensor.to(torch.float16).contiguous() for name, tensor in tensors.items()}
        save_file(halved, STORYBOOK / part / WEIGHTS, metadata={"format": "pt"})
        (STORYBOOK / part / WEIGHTS).chmod(0o644)
    if (run / CARD).exists():
        shutil.copy(run / CARD, STORYBOOK)
    say_size()


def ship_adapters(adapter: Path, strength: float) -> None:
    """Replace the shipped adapters and their card."""
    fast, card = EMBEDDED["storybook-fast"], json.loads((adapter / CARD).read_text(encoding="utf-8"))
    if card["base"] != "storybook" or card["defaults"]["guidance"] != 1:
        raise InputError(f"{adapter} is no few-step student of storybook; name a run of storybook_distill")
    fast.mkdir(exist_ok=True)
    halved = {name: tensor.to(torch.float16).contiguous() for name, tensor in load_file(adapter / ADAPTER).items()}
    save_file(halved, fast / ADAPTER, metadata={"format": "pt"})
    (fast / ADAPTER).chmod(0o644)
    (fast / CARD).write_text(json.dumps(card | {"strength": strength}, indent=2) + "\n", encoding="utf-8")
    say_size()


def say_size() -> None:
    """Of all that is shipped; the limit is 40 MB."""
    size = sum(path.stat().st_size for path in STORYBOOK.rglob("*.safetensors"))
    print(f"{STORYBOOK}: {size / 1e6:.1f} MB of weights")


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
