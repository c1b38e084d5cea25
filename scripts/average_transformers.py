"""Average the transformers of two folders: python scripts/average_transformers.py FIRST SECOND OUT [SHARE].

For weights that were trained on from one another: their mean is often better than either (model soups, arXiv
2203.05482). OUT gets a `transformer`, of which SHARE (default 0.5) is SECOND's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from blockvid.model.dit import BlockDiT


def main(first: Path, second: Path, out: Path, share: float = 0.5) -> None:
    """Write `out/transformer`."""
    model, other = (BlockDiT.from_pretrained(folder / "transformer").float() for folder in (first, second))
    theirs = other.state_dict()
    model.load_state_dict({name: torch.lerp(ours, theirs[name], share) for name, ours in model.state_dict().items()})
    model.save_pretrained(out / "transformer")
    print(f"{out / 'transformer'}: {share:g} of {second}, {1 - share:g} of {first}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), *map(float, sys.argv[4:5]))
