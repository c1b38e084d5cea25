"""Checkpoints: every layout gives the same network, nothing in a file runs, and what does not fit is refused."""

from __future__ import annotations

import builtins
import collections
import io
import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPVisionModelWithProjection, ViTConfig, ViTModel

from blockvid.errors import InputError
from blockvid.evaluation.networks.archive import ArchiveError, is_torchscript, read_archive
from blockvid.evaluation.networks.checkpoints import (
    load_aesthetic,
    load_clip,
    load_dino,
    load_musiq,
    load_raft,
    loaded,
    read_tensors,
)
from blockvid.evaluation.networks.musiq import MUSIQ
from blockvid.evaluation.networks.raft import RAFT
from blockvid.evaluation.networks.vit import ClipViT, DinoViT
from evaluation.networks.tiny import CLIP_TINY, CLIP_TINY_DIM, DINO_TINY, Named, Weights, clip, dino, openai, randomised

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def torchscript(weights: Weights, path: Path) -> Path:
    """As OpenAI publishes CLIP: traced, saved with its code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Named(weights), torch.zeros(1)).save(str(path))
    return path


def saved(weights: Any, path: Path) -> Path:
    torch.save(weights, path)
    return path


def same(network: Any, expected: Any) -> bool:
    ours, theirs = network.state_dict(), expected.state_dict()
    return set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def read_clip(path: Path) -> ClipViT:
    return load_clip(path, sizes=CLIP_TINY, dim=CLIP_TINY_DIM)


def read_dino(path: Path) -> DinoViT:
    return load_dino(path, sizes=DINO_TINY)


def refusal(read: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and "; " in message and str(path) in message, message
    return message


# Layouts


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"state_dict": w, "epoch": 3}, lambda w: {"model": w}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_dino_in_its_authors_layout_which_is_timms(wrap, prefix: str, tmp_path):
    weights = {prefix + name: weight for name, weight in dino().state_dict().items()}
    assert same(read_dino(saved(wrap(weights), tmp_path / "dino.pth")), dino())
    save_file(weights, tmp_path / "model.safetensors")
    assert same(read_dino(tmp_path / "model.safetensors"), dino())


def test_a_pooler_that_transformers_made_up_is_left_out(tmp_path):
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=64, patch_size=16
    )
    randomised(ViTModel(config)).save_pretrained(tmp_path)
    assert any(name.startswith("pooler.") for name in read_tensors(tmp_path / "model.safetensors"))
    read_dino(tmp_path / "model.safetensors")


def test_clip_in_openais_layout(tmp_path):
    weights = openai(clip().state_dict())
    assert weights["visual.proj"].shape == (32, 24) and weights["visual.class_embedding"].shape == (32,)
    for path in (torchscript(weights, tmp_path / "ViT.pt"), saved(weights, tmp_path / "open_clip_pytorch_model.bin")):
        assert same(read_clip(path), clip())
    assert is_torchscript(tmp_path / "ViT.pt") and not is_torchscript(tmp_path / "open_clip_pytorch_model.bin")


def test_clip_in_timms_layout_whose_head_has_a_bias_of_zeros(tmp_path):
    weights = clip().state_dict() | {"head.bias": torch.zeros(CLIP_TINY_DIM)}
    assert same(read_clip(saved(weights, tmp_path / "clip.pth")), clip())
    weights["head.bias"][3] = 1
    message = refusal(read_clip, saved(weights, tmp_path / "tuned.pth"))
    assert "head.bias, that a ClipViT has no place for" in message


def test_clip_in_transformers_layout_with_and_without_its_text_encoder(tmp_path):
    whole = randomised(CLIPModel(whole_clip()))
    whole.save_pretrained(tmp_path / "whole")
    tower = CLIPVisionModelWithProjection(whole.config.vision_config)
    tower.load_state_dict({name: weight for name, weight in whole.state_dict().items() if "vis" in name}, strict=True)
    tower.save_pretrained(tmp_path / "tower")
    ours = read_clip(tmp_path / "whole" / "model.safetensors")
    assert same(read_clip(tmp_path / "tower" / "model.safetensors"), ours)
    assert (ours(X) - tower(X).image_embeds).abs().max() <= 1e-5
    old = read_tensors(tmp_path / "whole" / "model.safetensors")
    old["vision_model.embeddings.position_ids"] = torch.arange(17)[None]  # in files of before 2023
    assert same(read_clip(saved(old, tmp_path / "pytorch_model.bin")), ours)


def whole_clip() -> CLIPConfig:
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {**sizes, "intermediate_size": 128, "image_size": 64, "patch_size": 16, "projection_dim": 24}
    text = {**sizes, "intermediate_size": 64, "vocab_size": 11, "projection_dim": 24}
    return CLIPConfig(vision_config=vision, text_config=text, projection_dim=24)


def test_half_precision_becomes_float32(tmp_path):
    halves = {name: weight.half() for name, weight in openai(clip().state_dict()).items()}
    network = read_clip(torchscript(halves, tmp_path / "ViT.pt"))
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}
    assert torch.equal(network.norm.weight, clip().norm.weight.half().float())
    assert network(X).dtype == torch.float32 and (network(X) - clip()(X)).abs().max() < 0.05


def test_networks_come_frozen_and_in_evaluation_mode(tmp_path):
    network = read_dino(saved(dino().state_dict(), tmp_path / "dino.pth"))
    assert not network.training and not any(weight.requires_grad for weight in network.parameters())
    assert all(weight.device.type == "cpu" and weight.is_contiguous() for weight in network.parameters())


def test_the_aesthetic_head(tmp_path):
    weights = {"weight": torch.arange(768.0)[None], "bias": torch.tensor([5.0])}
    head = load_aesthetic(saved(weights, tmp_path / "head.pth"))
    assert head(torch.eye(768)).tolist() == [5.0 + n for n in range(768)]
    assert "weight in" in refusal(load_aesthetic, saved({**weights, "weight": torch.zeros(1, 512)}, tmp_path / "b.pth"))


# What does not fit


def test_a_weight_too_many_too_few_or_of_another_shape(tmp_path):
    good = dino().state_dict()
    extra = good | {"blocks.2.norm1.weight": torch.ones(32)}
    assert "holds 1 weights, such as blocks.2.norm1.weight" in refusal(read_dino, saved(extra, tmp_path / "a.pth"))
    fewer = {name: weight for name, weight in good.items() if "blocks.1." not in name}
    assert "lacks 12 weights of a DinoViT, such as blocks.1." in refusal(read_dino, saved(fewer, tmp_path / "b.pth"))
    other = good | {"pos_embed": torch.zeros(1, 10, 32)}
    assert "pos_embed in" in refusal(read_dino, saved(other, tmp_path / "c.pth"))
    assert "(1, 10, 32) where a DinoViT has (1, 17, 32)" in refusal(read_dino, tmp_path / "c.pth")


def test_a_query_without_its_key_is_reported(tmp_path):
    randomised(CLIPModel(whole_clip())).save_pretrained(tmp_path)
    weights = read_tensors(tmp_path / "model.safetensors")
    del weights["vision_model.encoder.layers.1.self_attn.k_proj.weight"]
    assert "blocks.1.attn.query.weight" in refusal(read_clip, saved(weights, tmp_path / "cut.bin"))


def test_another_network_is_refused(tmp_path):
    assert "only such as bias" in refusal(read_dino, saved({"bias": torch.ones(1)}, tmp_path / "head.pth"))
    assert "visual.conv1.weight or " in refusal(read_clip, saved(dino().state_dict(), tmp_path / "dino.pth"))
    refusal(read_dino, torchscript(openai(clip().state_dict()), tmp_path / "clip.pt"))


def test_files_that_are_no_checkpoints(tmp_path):
    assert "is missing" in refusal(read_tensors, tmp_path / "none.pth")
    page, pointer, cut = tmp_path / "page.pth", tmp_path / "pointer.safetensors", tmp_path / "cut.pth"
    page.write_text("\n<!DOCTYPE html><title>blob</title>")
    assert "is a web page, not a checkpoint; download the raw file" in refusal(read_tensors, page)
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    assert "pointer of Git LFS" in refusal(read_tensors, pointer)
    saved(dino().state_dict(), cut)
    cut.write_bytes(cut.read_bytes()[:-2000])
    assert "download it again" in refusal(read_tensors, cut)
    cut.write_bytes(b"")
    assert "download it again" in refusal(read_tensors, cut)
    assert "holds a list" in refusal(read_tensors, saved([torch.ones(1)], tmp_path / "list.pth"))
    assert "holds no weights" in refusal(read_tensors, saved({"epoch": 3}, tmp_path / "epoch.pth"))
    whole = torchscript(openai(clip().state_dict()), tmp_path / "clip.pt").read_bytes()
    (tmp_path / "clip.pt").write_bytes(whole[: len(whole) // 2])
    assert "download it again" in refusal(read_tensors, tmp_path / "clip.pt")


def test_a_flipped_bit_in_an_archive_is_noticed(tmp_path):
    path = torchscript(openai(clip().state_dict()), tmp_path / "clip.pt")
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content[largest.header_offset + largest.file_size // 2] ^= 1
    path.write_bytes(content)
    assert "download it again" in refusal(read_tensors, path)


# Nothing in a file runs


class Mischief:
    """Pickles to a call of `function`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def archive_of(content: object, path: Path, script: bool) -> Path:
    """A zip archive as torch writes, with any pickle in it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(content, protocol=2))
        archive.writestr("a/byteorder", "little")
        archive.writestr("a/version", "3\n")
        if script:
            archive.writestr("a/constants.pkl", pickle.dumps(()))
    return path


@pytest.mark.parametrize("script", [True, False])
@pytest.mark.parametrize("function", [exec, eval, builtins.__import__, Path.write_text, torch.load])
def test_calls_in_a_pickle_are_not_made(function, script: bool, tmp_path):
    path, proof = tmp_path / "a.pt", tmp_path / "proof"
    arguments = (proof, "ran") if function is Path.write_text else (f"open({str(proof)!r}, 'w')",)
    archive_of({"weights": Mischief(function, *arguments)}, path, script)
    refusal(read_tensors, path)
    assert not proof.exists()


def test_names_in_a_pickle_are_not_imported(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02cantigravity\nfly\n.")
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.write(tmp_path / "a.pkl", "a/data.pkl")
    with pytest.raises(ArchiveError):
        read_archive(tmp_path / "a.pt")
    assert "antigravity" not in sys.modules


def test_tensors_may_not_reach_beyond_their_numbers(tmp_path):
    path = saved({"a": torch.arange(6.0).reshape(2, 3)}, tmp_path / "a.pth")
    for size, stride, offset, fits in [((2, 3), (3, 1), 0, True), ((2, 3), (3, 1), 1, False), ((9,), (0,), 5, True)]:
        forged = tmp_path / "b.pth"
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(forged, "w") as new:
            new.writestr("a/data/0", next(old.read(n) for n in old.namelist() if n.endswith("data/0")))
            new.writestr("a/data.pkl", forged_pickle(size, stride, offset))
        if fits:
            assert read_archive(forged)["a"].shape == size
        else:
            with pytest.raises(ArchiveError, match="beyond its storage"):
                read_archive(forged)


def forged_pickle(size: tuple[int, ...], stride: tuple[int, ...], offset: int) -> bytes:
    class Forger(pickle._Pickler):  # the one written in Python, whose dispatch can be extended
        def persistent_id(self, obj: object) -> object:
            return ("storage", torch.FloatStorage, "0", "cpu", 6) if obj == "numbers" else None

    out = io.BytesIO()
    build = Mischief(torch._utils._rebuild_tensor_v2, "numbers", offset, size, stride, False, collections.OrderedDict())
    Forger(out, protocol=2).dump({"a": build})
    return out.getvalue()


def test_settings_beside_the_weights_do_not_keep_them_from_being_read(tmp_path):
    beside = {"args": collections.Counter(a=1), "best": np.float64(0.5), "network": Path("x"), "names": {"a", "b"}}
    path = saved({"state_dict": dino().state_dict(), **beside}, tmp_path / "trained.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    assert same(read_dino(path), dino())


def test_archives_are_read_as_torch_reads_them(tmp_path):
    base = torch.arange(24.0)
    views: dict[str, Tensor] = {
        "turned": base.reshape(4, 6).T,
        "part": base[5:9],
        "half": base.half(),
        "brain": base.bfloat16(),
        "long": torch.tensor(7),
        "flag": torch.tensor([True, False]),
        "none": torch.zeros(0, 3),
    }
    path = saved(views, tmp_path / "views.pth")
    ours, theirs = read_archive(path), torch.load(path, weights_only=True)
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[n], theirs[n]) and ours[n].dtype == theirs[n].dtype for n in theirs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.load(str(torchscript(openai(clip().state_dict()), tmp_path / "clip.pt"))).state_dict()
    read = read_tensors(tmp_path / "clip.pt")
    assert set(read) == set(script) and all(torch.equal(read[n], script[n]) for n in script)


def as_musiq_is_published(name: str) -> str:
    return name.removeprefix("stem.") if "_root." in name else name.replace("stem.", "block1.")


@pytest.mark.parametrize(
    ("load", "network", "named"),
    [(load_raft, RAFT, lambda name: f"module.{name}"), (load_musiq, MUSIQ, as_musiq_is_published)],
)
def test_networks_of_full_size(load, network, named, tmp_path):
    expected = network().half()
    weights = {named(name): weight for name, weight in expected.state_dict().items()}
    ours = load(saved(weights, tmp_path / "weights.pth"))
    assert same(ours, expected.float()) and not ours.training
    del weights[min(weights)]
    assert "lacks 1 weights of a " in refusal(load, saved(weights, tmp_path / "weights.pth"))


def test_a_network_of_any_kind_can_be_filled():
    weights = {"weight": torch.ones(2, 3, dtype=torch.float16), "bias": torch.zeros(2)}
    network = loaded(lambda: torch.nn.Linear(3, 2), weights, Path("weights.pth"))
    assert network(torch.ones(1, 3)).tolist() == [[3.0, 3.0]]
