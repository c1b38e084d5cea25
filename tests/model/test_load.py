"""Model folders: what is read, and how everything else is refused in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save_file

from blockvid.errors import InputError
from blockvid.geometry import Geometry
from blockvid.model.autoencoder import Autoencoder, WanAutoencoder
from blockvid.model.dit import BlockDiT
from blockvid.model.load import STORYBOOK, Defaults, load_models, save_blockvid_json
from blockvid.model.storybook_vae import StorybookAutoencoder, StorybookVAE

GEOMETRY = Geometry(width=160, height=96, fps=8, chunk_frames=8)
DEFAULTS = Defaults(steps=20, guidance=3.0, shift=3.0, negative_prompt="blurry", solver="euler")
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def tiny(cls: Any, text_dim: int = 384, **settings: Any) -> Any:
    torch.manual_seed(0)
    return cls(
        num_attention_heads=2,
        attention_head_dim=16,
        text_dim=text_dim,
        freq_dim=32,
        ffn_dim=48,
        num_layers=2,
        **settings,
    )


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """What training exports."""
    tiny(BlockDiT).save_pretrained(tmp_path / "transformer")
    StorybookVAE(width=16, latent_width=16, blocks=1, latent_blocks=1).save_pretrained(tmp_path / "vae")
    save_blockvid_json(tmp_path, GEOMETRY, DEFAULTS, "minilm")
    return tmp_path


@pytest.fixture
def wan(tmp_path: Path) -> Path:
    """What diffusers saves."""
    tiny(WanTransformer3DModel, text_dim=16).save_pretrained(tmp_path / "transformer")
    AutoencoderKLWan(base_dim=8, num_res_blocks=1).save_pretrained(tmp_path / "vae")
    index = {"_class_name": "WanPipeline", "transformer_2": [None, None]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    return tmp_path


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(name: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        load_models(str(name))
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and "; " in message, message
    return message


def test_an_exported_folder_is_read_as_it_was_saved(exported: Path) -> None:
    models = load_models(str(exported))
    assert (models.geometry, models.defaults, models.text_mask) == (GEOMETRY, DEFAULTS, True)
    assert models.folder == exported
    assert isinstance(models.autoencoder, StorybookAutoencoder) and isinstance(models.autoencoder, Autoencoder)
    expected = load_file(exported / WEIGHTS)
    assert set(models.dit.state_dict()) == set(expected)
    for name, weight in models.dit.state_dict().items():
        assert torch.equal(weight, expected[name]) and weight.device.type == "cpu"
    assert not models.dit.training and not any(parameter.requires_grad for parameter in models.dit.parameters())


def test_a_wan_folder_has_the_sizes_of_the_checkpoint(wan: Path) -> None:
    models = load_models(str(wan))
    geometry = models.geometry
    assert (geometry.width, geometry.height, geometry.fps, geometry.chunk_frames) == (832, 480, 16, 20)
    assert (models.defaults.steps, models.defaults.guidance, models.defaults.shift) == (50, 6, 8)
    assert not models.text_mask
    assert isinstance(models.autoencoder, WanAutoencoder)


def test_skyreels_embeds_its_frame_rate(wan: Path) -> None:
    (wan / "model_index.json").write_text('{"_class_name": "SkyReelsV2DiffusionForcingPipeline"}')
    tiny(BlockDiT, text_dim=16, inject_sample_info=True).save_pretrained(wan / "transformer")
    models = load_models(str(wan))
    assert (models.geometry.fps, models.geometry.chunk_frames, models.dit.fps_index) == (24, 24, 1)
    assert (models.defaults.steps, models.defaults.guidance, models.defaults.shift) == (30, 6, 8)
    assert load_models(str(wan), fps=16).dit.fps_index == 0


def test_sizes_may_be_chosen(wan: Path) -> None:
    geometry = load_models(str(wan), width=64, height=48, fps=12.5, chunk_frames=3).geometry
    assert geometry == Geometry(width=64, height=48, fps=12.5, chunk_frames=3)
    with pytest.raises(InputError, match="width 854 does not divide into patches of 16 pixels; use 848 or 864"):
        load_models(str(wan), width=854)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("asked", [torch.float32, torch.bfloat16])
def test_files_of_any_precision_become_the_one_asked_for(
    exported: Path, stored: torch.dtype, asked: torch.dtype
) -> None:
    weights = {name: weight.to(stored) for name, weight in load_file(exported / WEIGHTS).items()}
    save_file(weights, exported / WEIGHTS, metadata={"format": "pt"})
    models = load_models(str(exported), dtype=asked)
    assert models.dit.proj_out.weight.dtype == asked == models.dit.dtype
    assert models.dit.blocks[0].norm2.weight.dtype == torch.float32 == models.dit.scale_shift_table.dtype
    assert torch.equal(models.dit.proj_out.weight, weights["proj_out.weight"].to(asked))
    assert models.autoencoder.vae.dtype == torch.float32


def test_shards_are_read_by_their_index(exported: Path) -> None:
    whole = load_models(str(exported))
    for path in (exported / "transformer").glob("*.safetensors"):
        path.unlink()
    whole.dit.save_pretrained(exported / "transformer", max_shard_size="50KB")
    assert len(list((exported / "transformer").glob("*.safetensors"))) > 2
    sharded = load_models(str(exported))
    for name, weight in whole.dit.state_dict().items():
        assert torch.equal(sharded.dit.get_parameter(name), weight)
    shard = sorted((exported / "transformer").glob("*.safetensors"))[1]
    shard.unlink()
    assert f"{shard} is missing, and holds weights" in refusal(exported)


def test_the_fingerprint_is_of_contents(exported: Path) -> None:
    before = load_models(str(exported)).fingerprint
    assert len(before) == 64 and load_models(str(exported)).fingerprint == before
    weights = load_file(exported / WEIGHTS)
    weights["proj_out.bias"][0] += 1
    save_file(weights, exported / WEIGHTS, metadata={"format": "pt"})
    assert load_models(str(exported)).fingerprint != before


def test_weights_that_do_not_fit_are_refused(exported: Path) -> None:
    weights = load_file(exported / WEIGHTS)
    cases = {
        "lacks 1 weights, such as proj_out.bias": {n: w for n, w in weights.items() if n != "proj_out.bias"},
        "holds 1 weights, such as extra, that its config.json has no place for": weights | {"extra": torch.ones(1)},
        "proj_out.bias in": weights | {"proj_out.bias": torch.ones(3)},
    }
    for expected, changed in cases.items():
        save_file(changed, exported / WEIGHTS)
        assert expected in refusal(exported)


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_absent_and_truncated_weights_are_refused(exported: Path, part: str) -> None:
    path = exported / part / "diffusion_pytorch_model.safetensors"
    content = path.read_bytes()
    for cut in (len(content) - 1, 100, 0):
        path.write_bytes(content[:cut])
        assert f"{path} is not a whole safetensors file" in refusal(exported)
    path.unlink()
    assert f"{path} is missing, and holds weights; download it again" in refusal(exported)
    (exported / part / "config.json").unlink()
    assert "config.json is missing" in refusal(exported)


def test_other_pipelines_are_refused(wan: Path) -> None:
    edit(wan / "model_index.json", _class_name="WanImageToVideoPipeline")
    assert "is a WanImageToVideoPipeline, and only WanPipeline and SkyReelsV2" in refusal(wan)
    edit(wan / "model_index.json", _class_name="WanPipeline", transformer_2=["diffusers", "WanTransformer3DModel"])
    assert "has two transformers" in refusal(wan)
    (wan / "model_index.json").unlink()
    assert "has neither blockvid.json nor model_index.json" in refusal(wan)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "FluxTransformer2DModel"}, "describes a FluxTransformer2DModel"),
        ({"image_dim": 1280}, "only text-to-video Wan configurations"),
        ({"num_attention_heads": None}, "does not describe a transformer"),
        ({"vace_layers": [0, 1]}, "sets vace_layers, which no text-to-video Wan model has"),
        ({"ffn_dim": 64}, "where its config.json makes"),
    ],
)
def test_other_transformers_are_refused(wan: Path, changes: dict[str, Any], message: str) -> None:
    edit(wan / "transformer/config.json", **changes)
    assert message in refusal(wan)


def test_image_to_video_channels_are_refused(wan: Path) -> None:
    tiny(WanTransformer3DModel, text_dim=16, in_channels=36).save_pretrained(wan / "transformer")
    assert "reads 36 channels and writes 16, but its autoencoder has 16" in refusal(wan)


def test_a_bad_card_is_refused(exported: Path) -> None:
    path = exported / "blockvid.json"
    good = path.read_text()
    edit(path, text="clip")
    assert "blockvid.json: text 'clip'" in refusal(exported)
    path.write_text(good.replace('"steps": 20', '"steps": "many"'))
    assert "defaults.steps 'many'" in refusal(exported)
    path.write_text(good.replace('"steps": 20', '"steps": 0'))
    assert "0 steps are outside 1 to 1000" in refusal(exported)
    path.write_text(good.replace('"context_noise": 0.0', '"context_noise": 1.5'))
    assert "context noise 1.5 is outside 0 to 1" in refusal(exported)
    path.write_text(good.replace('"overlap": 0', '"overlap": -1'))
    assert "an overlap of -1 latent frames is below 0" in refusal(exported)
    path.write_text(good.replace('"dissolve": 0.0', '"dissolve": -1.0'))
    assert "a dissolve of -1.0 is not a finite number" in refusal(exported)
    path.write_text(good.replace('"guidance_rule": "cfg"', '"guidance_rule": "apg"'))
    assert "defaults.guidance_rule 'apg'" in refusal(exported)
    path.write_text(good.replace('"width": 160', '"width": 100'))
    assert "width 100 does not divide into patches of 16 pixels" in refusal(exported)
    path.write_text("{")
    assert "is not JSON" in refusal(exported)
    path.write_text("[]")
    assert "holds a list, not a JSON object" in refusal(exported)


def test_an_absent_text_encoder_is_refused(exported: Path) -> None:
    models = load_models(str(exported))
    with pytest.raises(InputError, match=r"text_encoder/model\.safetensors is missing"):
        replace(models, text="umt5").text_encoder()


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    assert "'no such model' is no model; use storybook or storybook-fast, a model folder, or a hub id" in refusal(
        "no such model"
    )
    assert "is no model" in refusal(tmp_path / "absent")
    assert "has neither blockvid.json nor model_index.json" in refusal(tmp_path)
    if not STORYBOOK.is_dir():
        assert "this installation carries no storybook weights" in refusal("storybook")


def test_a_hub_id_is_read_from_the_local_cache(wan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And without one, offline, refused."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "someone/tiny is neither a folder nor in the local cache" in refusal("someone/tiny")
    stored = tmp_path / "hub/models--someone--tiny"
    (stored / "refs").mkdir(parents=True)
    (stored / "refs/main").write_text("0" * 40)
    snapshot = stored / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for name in ("transformer", "vae", "model_index.json"):
        (wan / name).rename(snapshot / name)
    models = load_models("someone/tiny")
    assert (models.name, models.folder) == ("someone/tiny", snapshot)


def test_importing_brings_in_no_model_of_diffusers() -> None:
    code = (
        "import sys, blockvid.model.load; "
        "heavy = {'diffusers.models.transformers.transformer_wan', 'diffusers.models.autoencoders.autoencoder_kl_wan', "
        "'diffusers.pipelines.wan', 'torchvision'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
