"""Model folders of every kind that is read, with random weights and networks small enough for milliseconds a step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from blockvid.geometry import Geometry
from blockvid.model.dit import BlockDiT
from blockvid.model.load import Defaults, save_blockvid_json
from blockvid.pipeline import Pipeline

WORDS = ["a", "red", "ball", "rolls", "over", "the", "green", "hill", "fox", "runs", "sleeps", "blurry"]
KINDS = ("wan", "skyreels", "storybook")


@dataclass(frozen=True)
class Tiny:
    """A folder, and the sizes to run it at: 32x32 pixels, 8 fps, chunks of two latent frames (a second)."""

    folder: Path

    @property
    def options(self) -> list[str]:
        """For the command line."""
        sizes = ["--width", "32", "--height", "32", "--fps", "8", "--chunk-frames", "2"]
        return ["--model", str(self.folder), "--dtype", "float32", "--device", "cpu", *sizes]

    def pipeline(self) -> Pipeline:
        return Pipeline.from_pretrained(self.folder, "cpu", torch.float32, 32, 32, 8.0, 2)


def transformer(cls: Any, text_dim: int, **settings: Any) -> Any:
    """A network whose every weight counts: outputs and the frame rate's projection begin at zero otherwise."""
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "freq_dim": 32, "ffn_dim": 48, "num_layers": 2}
    network = cls(text_dim=text_dim, **sizes, **settings)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)
    return network


def save_umt5(folder: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>")
    tokenizer.save_pretrained(folder / "tokenizer")
    config = UMT5Config(vocab_size=len(vocabulary), d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=4)
    torch.manual_seed(0)
    UMT5EncoderModel(config).save_pretrained(folder / "text_encoder")


def save_diffusers(folder: Path, pipeline: str, network: nn.Module) -> Tiny:
    from diffusers import AutoencoderKLWan

    network.save_pretrained(folder / "transformer")
    torch.manual_seed(0)
    AutoencoderKLWan(base_dim=8, num_res_blocks=1).save_pretrained(folder / "vae")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    save_umt5(folder)
    return Tiny(folder)


@pytest.fixture(scope="session")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    from diffusers import WanTransformer3DModel

    return save_diffusers(
        tmp_path_factory.mktemp("wan"), "WanPipeline", transformer(WanTransformer3DModel, text_dim=16)
    )


@pytest.fixture(scope="session")
def skyreels(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    network = transformer(BlockDiT, text_dim=16, inject_sample_info=True)
    return save_diffusers(tmp_path_factory.mktemp("skyreels"), "SkyReelsV2DiffusionForcingPipeline", network)


@pytest.fixture(scope="session")
def storybook(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    from blockvid.model.storybook_vae import StorybookVAE

    folder = tmp_path_factory.mktemp("storybook")
    transformer(BlockDiT, text_dim=384).save_pretrained(folder / "transformer")
    torch.manual_seed(0)
    StorybookVAE(width=16, latent_width=16, blocks=1, latent_blocks=1).save_pretrained(folder / "vae")
    defaults = Defaults(steps=2, guidance=3.0, shift=3.0, negative_prompt="blurry", solver="euler")
    save_blockvid_json(folder, Geometry(width=32, height=32, fps=8, chunk_frames=2), defaults, "minilm")
    return Tiny(folder)


@pytest.fixture(params=KINDS)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    """Each kind in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def pipe(storybook: Tiny) -> Pipeline:
    return storybook.pipeline()


def shots_text(shots: Sequence[tuple[str, float]]) -> str:
    """A storyboard in TOML."""
    return "".join(f"[[shots]]\nprompt = {json.dumps(prompt)}\nseconds = {seconds}\n" for prompt, seconds in shots)
