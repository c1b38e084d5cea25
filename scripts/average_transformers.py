"""Average the transformers of two folders: python scripts/average_transformers.py FIRST SECOND OUT [SHARE].

For weights that were trained on from one another: their mean is often better than either (model soups, arXiv
2203.05482). OUT gets a `transformer`, of which SHARE (default 0.5) is SECOND's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import tyro

from blockvid.errors import InputError
from blockvid.model.dit import BlockDiT


def main(
    first: tyro.conf.Positional[Path],
    second: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    share: tyro.conf.Positional[float] = 0.5,
) -> None:
    """Write `out/transformer`, the mean of the first's and the second's, `share` of it the second's."""
    for folder in (first, second):
        if not (folder / "transformer" / "config.json").exists():
            raise InputError(f"{folder} has no transformer; name the --out of `blockvid train storybook_base`")
    model, other = (BlockDiT.from_pretrained(folder / "transformer").float() for folder in (first, second))
    theirs = other.state_dict()
    if {name: t.shape for name, t in model.state_dict().items()} != {name: t.shape for name, t in theirs.items()}:
        raise InputError(
            f"{first} and {second} have other layers; average weights that were trained on from one another"
        )
    model.load_state_dict({name: torch.lerp(ours, theirs[name], share) for name, ours in model.state_dict().items()})
    model.save_pretrained(out / "transformer")
    print(f"{out / 'transformer'}: {share:g} of {second}, {1 - share:g} of {first}")


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
