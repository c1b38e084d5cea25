"""A prompt's embedding depends on nothing but the prompt, and is the one its model was trained with."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from blockvid.errors import InputError
from blockvid.model.text import (
    MINILM_PACKAGE,
    MiniLMText,
    PromptEmbedding,
    Prompts,
    TextEncoder,
    UMT5Text,
    clean_wan,
    masked_mean,
    minilm_folder,
)

WORDS = ["a", "red", "ball", "rolls", "over", "the", "green", "hill", "&", "café"]
PROMPTS = ["a red ball", "the green hill rolls over a red ball", "", "a red ball"]
needs_minilm = pytest.mark.skipif(importlib.util.find_spec(MINILM_PACKAGE) is None, reason="needs blockvid[storybook]")


def run_python(*lines: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder with a tiny umT5, saved as Wan's is: one embedding, called shared, said not to be tied."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    folder = tmp_path_factory.mktemp("wan")
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
    tokenizer.save_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    config = UMT5Config(
        vocab_size=len(vocabulary), d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, dropout_rate=0.0
    )
    UMT5EncoderModel(config).save_pretrained(folder / "text_encoder")
    config_file, weights_file = folder / "text_encoder/config.json", folder / "text_encoder/model.safetensors"
    config_file.write_text(json.dumps(json.loads(config_file.read_text()) | {"tie_word_embeddings": False}))
    weights = load_file(weights_file)
    weights["shared.weight"] = torch.randn(len(vocabulary), 16)
    weights.pop("encoder.embed_tokens.weight", None)
    save_file(weights, weights_file, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def umt5(wan_folder: Path) -> UMT5Text:
    return UMT5Text.from_folder(wan_folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def minilm() -> MiniLMText:
    return MiniLMText(length=16)


@pytest.fixture(params=["umt5", pytest.param("minilm", marks=needs_minilm)])
def encoder(request: pytest.FixtureRequest) -> TextEncoder:
    return request.getfixturevalue(request.param)


def test_shapes_padding_and_pooling(encoder: TextEncoder) -> None:
    embedding = encoder(PROMPTS)
    assert isinstance(encoder, TextEncoder)
    assert embedding.tokens.shape == (4, encoder.length, encoder.dim)
    assert embedding.mask.shape == (4, encoder.length) and embedding.mask.dtype == torch.bool
    assert embedding.tokens[~embedding.mask].abs().max() == 0
    assert embedding.tokens[embedding.mask].abs().min(dim=-1).values.max() > 0
    for tokens, mask, pooled in zip(embedding.tokens, embedding.mask, embedding.pooled, strict=True):
        torch.testing.assert_close(pooled, tokens[mask].mean(dim=0))


def test_an_embedding_does_not_depend_on_the_other_prompts(encoder: TextEncoder) -> None:
    together = encoder(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        alone = encoder([prompt])
        assert torch.equal(alone.tokens[0], together.tokens[row])
        assert torch.equal(alone.mask[0], together.mask[row])
        assert torch.equal(alone.pooled[0], together.pooled[row])
    assert not torch.equal(together.tokens[0], together.tokens[1])


def test_equal_prompts_are_read_once(umt5: UMT5Text) -> None:
    reads: list[int] = []
    handle = umt5._states.model.register_forward_hook(lambda *_: reads.append(1))
    umt5(["a red ball"] * 5 + ["the  green hill", "the green hill"])
    handle.remove()
    assert len(reads) == 2, "prompts that are equal once cleaned are read once"


def test_a_long_prompt_is_cut_with_a_warning(encoder: TextEncoder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="blockvid.model.text"):
        embedding = encoder(["red ball " * encoder.length])
    assert f"cut to {encoder.length}" in caplog.text
    assert embedding.mask.all()


def test_no_warning_for_a_prompt_that_fits(encoder: TextEncoder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        encoder(PROMPTS)
    assert not caplog.text


@pytest.mark.parametrize("prompts", [[], ()])
def test_no_prompts_are_refused(encoder: TextEncoder, prompts: list[str]) -> None:
    with pytest.raises(InputError, match="at least one prompt"):
        encoder(prompts)


def test_an_encoder_is_made_for_new_prompts_alone(umt5: UMT5Text) -> None:
    asked: list[list[str]] = []

    def encoder() -> TextEncoder:
        asked.append([])
        return Listening()

    class Listening:
        dim, length = umt5.dim, umt5.length

        def __call__(self, prompts: Sequence[str]) -> PromptEmbedding:
            asked[-1].extend(prompts)
            return umt5(prompts)

    prompts, other = Prompts(encoder), ["a red ball", "the green hill"]
    for _ in range(2):
        for name, tensor in vars(umt5(PROMPTS)).items():
            assert torch.equal(getattr(prompts(PROMPTS), name), tensor)
    assert asked == [list(dict.fromkeys(PROMPTS))]
    assert torch.equal(prompts(other).tokens, umt5(other).tokens) and asked[1:] == [["the green hill"]]
    prompts(PROMPTS)  # of the call before the last one, what the last one did not ask for is forgotten
    assert asked[2:] == [[PROMPTS[1], ""]]


def test_the_pooled_state_of_no_tokens_is_zero() -> None:
    pooled = masked_mean(torch.randn(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool))
    assert torch.equal(pooled, torch.zeros(1, 2))


def test_wan_cleaning() -> None:
    assert clean_wan("  a\n red&amp;amp;green \t ball ") == "a red&green ball"


def test_wan_cleaning_without_ftfy_unescapes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert clean_wan("  a\n red&amp;amp;green \t ball ") == "a red&green ball"


@pytest.mark.skipif(importlib.util.find_spec("ftfy") is None, reason="needs blockvid[wan]")
def test_wan_cleaning_mends_unicode() -> None:
    assert clean_wan("a cafÃ©") == "a café"


def test_umt5_is_diffusers_wan_prompt_embedding(umt5: UMT5Text) -> None:
    from diffusers import WanPipeline

    prompts = [*PROMPTS, "  a &amp; caf\u00e9\n hill "]
    model, tokenizer = umt5._states.model, umt5._states.tokenizer
    pipeline = WanPipeline(tokenizer, model, None, None, None)
    theirs = pipeline._get_t5_prompt_embeds(prompts, max_sequence_length=512, device=torch.device("cpu"))
    torch.testing.assert_close(umt5(prompts).tokens, theirs, rtol=1e-5, atol=1e-6)


def test_umt5_reads_the_shared_embedding(wan_folder: Path, umt5: UMT5Text) -> None:
    """Wan's folder names its one embedding `shared` and says it is not tied; it must not be left at zero."""
    stored = load_file(wan_folder / "text_encoder/model.safetensors")["shared.weight"]
    assert torch.equal(umt5._states.model.encoder.embed_tokens.weight, stored)


def test_umt5_dtype(wan_folder: Path) -> None:
    embedding = UMT5Text.from_folder(wan_folder, dtype=torch.bfloat16)(["a red ball"])
    assert embedding.tokens.dtype == embedding.pooled.dtype == torch.bfloat16


def test_umt5_refuses_a_folder_without_its_parts(wan_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no text_encoder/config\.json; name a diffusers model folder"):
        UMT5Text.from_folder(tmp_path)
    shutil.copytree(wan_folder / "text_encoder", tmp_path / "text_encoder")
    with pytest.raises(InputError, match=r"no tokenizer/tokenizer_config\.json"):
        UMT5Text.from_folder(tmp_path)


@pytest.mark.parametrize("gone", ["shared.weight", "encoder.block.1.layer.0.SelfAttention.q.weight"])
def test_umt5_refuses_missing_weights(wan_folder: Path, tmp_path: Path, gone: str) -> None:
    folder = tmp_path / "wan"
    shutil.copytree(wan_folder, folder)
    weights = load_file(folder / "text_encoder/model.safetensors")
    weights.pop(gone)
    save_file(weights, folder / "text_encoder/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks .* weights, such as"):
        UMT5Text.from_folder(folder)


@needs_minilm
def test_minilm_is_close_to_itself_for_close_meanings(minilm: MiniLMText) -> None:
    ball, sphere, rain = minilm(["a red ball on grass", "a crimson sphere on a lawn", "heavy rain at night"]).pooled
    similarity = torch.nn.functional.cosine_similarity
    assert similarity(ball, sphere, dim=0) > similarity(ball, rain, dim=0) + 0.2


@needs_minilm
def test_minilm_does_not_import_its_package() -> None:
    run_python(
        "import sys; from blockvid.model.text import MiniLMText; MiniLMText()",
        f"assert not {{{MINILM_PACKAGE!r}, 'sentence_transformers'}} & set(sys.modules)",
    )


@needs_minilm
def test_minilm_refuses_other_weights(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(minilm_folder(), folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    with pytest.raises(InputError, match=r"has sha256 .* trained with 53aa51172d14.*; pip install"):
        MiniLMText(folder=folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="is not there"):
        MiniLMText(folder=folder)


@needs_minilm
@pytest.mark.parametrize("length", [0, 1, 513])
def test_minilm_refuses_a_length_it_cannot_place(length: int) -> None:
    with pytest.raises(InputError, match="outside 2 to 512"):
        MiniLMText(length=length)


def test_minilm_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'blockvid\[storybook\]'"):
        MiniLMText()


def test_the_module_imports_without_transformers() -> None:
    run_python(
        "import sys, blockvid.model.text, blockvid.model.autoencoder",
        "assert not {'transformers', 'diffusers', 'ftfy'} & set(sys.modules)",
    )
