"""Laws of text alignment, with a tiny CLIP and a tokenizer of a few words in a folder."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from blockvid.errors import InputError
from blockvid.evaluation.networks.preprocess import OPENAI, CentreCrop
from blockvid.evaluation.scorers.text import Alignment, TextImage, metrics, shown_at
from blockvid.evaluation.series import Caption, Footage, extract

WORDS = ["[PAD]", "[BOS]", "[EOS]", "[UNK]", "a", "red", "blue", "bus", "sea"]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
FOOTAGE = Footage(64, 48, 4.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny-clip")
    torch.manual_seed(0)
    text = {**SIZES, "vocab_size": len(WORDS), "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}
    config = CLIPConfig(
        text_config={**text, "pad_token_id": 0},
        vision_config={**SIZES, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(path)
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing("[BOS] $A [EOS]", special_tokens=[("[BOS]", 1), ("[EOS]", 2)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[EOS]").save_pretrained(path)
    return path


def video(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 48, 64, 3), dtype=np.uint8)


def test_rows_are_the_models_embeddings_of_each_frame(folder: Path):
    (metric,) = metrics(TextImage.of(folder))
    frames = video(5)
    series = extract(frames, metric.extractors, 4.0, batch=2)
    picture = CentreCrop(32, "bicubic", OPENAI)
    network = CLIPModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = network.get_image_features(torch.stack([picture(frame) for frame in frames])).pooler_output
    np.testing.assert_allclose(series["text-image.image"], expected.numpy(), atol=1e-5)
    assert series["text-image.seconds"].tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_a_frame_is_compared_with_the_caption_shown_at_its_time(folder: Path):
    model = TextImage.of(folder)
    (metric,) = metrics(model)
    series = extract(video(8), metric.extractors, 4.0)
    captions = (Caption(0.0, 0.75, "a red bus"), Caption(1.0, 2.0, "blue sea"))  # frames 0-2 and 4-7
    red, blue = (text / np.linalg.norm(text) for text in model.texts(["a red bus", "blue sea"]))
    images = series["text-image.image"] / np.linalg.norm(series["text-image.image"], axis=1, keepdims=True)
    cosines = [*(images[:3] @ red), *(images[4:] @ blue)]
    footage = replace(FOOTAGE, captions=captions)
    assert metric.score(series, range(8), footage) == pytest.approx(np.mean(cosines), abs=1e-6)
    assert metric.score(series, range(2, 5), footage) == pytest.approx(np.mean(cosines[2:4]), abs=1e-6)
    assert math.isnan(metric.score(series, range(3, 4), footage))
    assert abs(np.mean(images[:3] @ red) - np.mean(images[:3] @ blue)) > 1e-4


def test_without_captions_there_is_no_alignment(folder: Path):
    series = {"text-image.image": np.ones((3, 16), np.float32), "text-image.seconds": np.zeros(3, np.float32)}
    found = Alignment(TextImage.of(folder)).measured(series, range(3), FOOTAGE)
    assert math.isnan(found.value) and found.flags == ("no caption",)


@pytest.mark.parametrize(("bad", "flag"), [(0.0, "feature is zero"), (math.nan, "feature is not finite")])
def test_an_image_without_direction_is_never_silent(folder: Path, bad: float, flag: str):
    images = np.ones((3, 16), np.float32)
    images[1] = bad
    series = {"text-image.image": images, "text-image.seconds": np.zeros(3, np.float32)}
    footage = replace(FOOTAGE, captions=(Caption(0, 1, "sea"),))
    found = Alignment(TextImage.of(folder)).measured(series, range(3), footage)
    assert math.isnan(found.value) and found.flags == (flag,)


def test_captions_are_half_open_and_the_later_of_two_counts():
    footage = replace(FOOTAGE, captions=(Caption(0, 1, "a"), Caption(0.5, 2, "b")))
    assert shown_at(np.array([0, 0.5, 0.9, 1, 2.0]), footage).tolist() == [0, 1, 1, 1, -1]


def test_long_captions_are_cut_off_and_texts_do_not_depend_on_their_company(folder: Path):
    model = TextImage.of(folder)
    long = " ".join(["a red bus"] * 9)
    together, alone = model.texts(["sea", long, "a blue sea"]), model.texts([long])
    np.testing.assert_allclose(together[1], alone[0], atol=1e-6)
    assert np.abs(together[0] - together[2]).max() > 1e-3


def test_folders_that_cannot_be_used_are_refused(folder: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"config\.json is missing"):
        TextImage.of(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip"}), encoding="utf-8")
    with pytest.raises(InputError, match=r"type 'siglip'; use one that transformers loads as CLIPModel"):
        TextImage.of(tmp_path)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"has no tokenizer\.json"):
        TextImage.of(tmp_path)


def test_weights_that_are_not_the_configs_are_refused(folder: Path, tmp_path: Path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["num_hidden_layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(InputError, match=r"lacks weights such as text_model\.encoder\.layers\.2"):
        TextImage.of(tmp_path).load(torch.device("cpu"))


def test_the_fingerprint_follows_every_file(folder: Path, tmp_path: Path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    model = TextImage.of(tmp_path)
    assert model.sha256 == TextImage.of(folder).sha256
    tokenizer = (tmp_path / "tokenizer.json").read_text(encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(tokenizer.replace("bus", "car"), encoding="utf-8")
    assert TextImage.of(tmp_path).sha256 != model.sha256


def test_the_metric_is_shown_with_the_tier_asked_for(folder: Path):
    model = TextImage.of(folder)
    (metric,) = metrics(model, "vbench")
    assert metric.key == f"text_alignment@vbench:{model.sha256[:8]}" and metrics() == ()
    assert pickle.loads(pickle.dumps(metric)) == metric
