"""The storybook as training data: shards are functions of their numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from blockvid.geometry import Geometry
from blockvid.model.storybook_vae import StorybookVAE
from blockvid.model.text import MiniLMText
from blockvid.storybook.captions import captions
from blockvid.storybook.corpus import EncodedSnippets, Shards, Snippets, build, coverage, encode_clip

GEOMETRY = Geometry(width=32, height=16, fps=8, chunk_frames=8)


def numbered(index: int) -> dict[str, Tensor]:
    return {"latents": torch.full((2, 1), float(index))}


def test_only_the_shards_asked_for_are_made_and_read(tmp_path: Path):
    build(tmp_path, range(3, 5), numbered, workers=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00003.safetensors", "00004.safetensors"]
    save_file(numbered(9), tmp_path / "00003.safetensors")
    build(tmp_path, range(2, 5), numbered, workers=1)
    found = Shards.read(tmp_path, range(2, 4), ("latents",)).tensors["latents"][:, 0].tolist()
    assert found == [2, 2, 9, 9]
    with pytest.raises(FileNotFoundError):
        Shards.read(tmp_path, range(4, 6), ("latents",))


def test_an_encoded_snippet_says_which_caption_each_latent_is_of(tmp_path: Path):
    """On frames that were rendered before: none is rendered here, for the cast may not be fetched."""
    snippets = Snippets(GEOMETRY, clips=6)
    chance = torch.Generator().manual_seed(0)
    frames = torch.randint(256, (6, 17, 16, 32, 3), generator=chance, dtype=torch.uint8)
    mask = torch.randint(2, (6, 17, 16, 32), generator=chance, dtype=torch.uint8)
    (tmp_path / "snippets").mkdir()
    save_file({"frames": frames, "mask": mask}, tmp_path / "snippets" / "00007.safetensors")
    vae = StorybookVAE(width=32, latent_width=32)
    vae.save_pretrained(tmp_path / "vae")
    found = EncodedSnippets(snippets, tmp_path / "snippets", tmp_path / "vae")(7)
    assert found["latents"].shape == (6, 16, 4, 2, 4) and found["tokens"].shape[:2] == (6, 2)
    embed, chunks = MiniLMText(), set()
    for row, (take, first) in enumerate(snippets.moments(7)):
        assert torch.equal(found["latents"][row], encode_clip(vae.eval(), frames[row])[:, 1:].half())
        assert torch.equal(found["coverage"][row], coverage(mask[row])[1:].half())
        told = captions(take)
        for latent in range(4):
            seconds = (first + 4 * latent + 1.5) / 8
            prompt = embed([told[int(seconds / 4)]])
            chunk = int(found["chunk"][row, latent])
            chunks.add(chunk)
            assert torch.equal(found["tokens"][row, chunk], prompt.tokens[0].half())
            assert torch.equal(found["mask"][row, chunk], prompt.mask[0])
    assert chunks == {0, 1}
