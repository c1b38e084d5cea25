"""A dry run needs no weights, and its numbers are about right."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from blockvid.attention.policies import Full, KeyValuePolicy, Semantic, Window
from blockvid.attention.storage import Storage
from blockvid.errors import InputError
from blockvid.estimate import Estimate, Memory, estimate, fit, memory, product_rate
from blockvid.model.load import describe_models, load_models
from blockvid.pipeline import Settings
from blockvid.storyboard import Storyboard

if TYPE_CHECKING:
    from tiny_models import Tiny

pytest_plugins = ["tiny_models"]

CPU = torch.device("cpu")
MINUTE = Storyboard.model_validate({"shots": [{"prompt": f"a fox runs {n}", "seconds": 5.0} for n in range(12)]})
WAN_VAE = {"_class_name": "AutoencoderKLWan"}  # the rest are the class's defaults, as in the config on the hub
WAN_TRANSFORMER = {
    "_class_name": "WanTransformer3DModel", "num_attention_heads": 12, "attention_head_dim": 128, "num_layers": 30,
    "ffn_dim": 8960, "freq_dim": 256, "text_dim": 4096, "in_channels": 16, "out_channels": 16,
}  # fmt: skip
UMT5_XXL = {
    "vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu", "is_gated_act": True, "dense_act_fn": "gelu_new",
}  # fmt: skip


@pytest.fixture
def wan_1b(tmp_path: Path) -> Path:
    """The configs of Wan2.1-T2V-1.3B without any weights."""
    for name, config in (("transformer", WAN_TRANSFORMER), ("vae", WAN_VAE), ("text_encoder", UMT5_XXL)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    (tmp_path / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    return tmp_path


def of(folder: Path, settings: Settings, dtype: torch.dtype = torch.bfloat16, device: torch.device = CPU) -> Estimate:
    models = describe_models(str(folder), dtype)
    return estimate(models, MINUTE, settings.resolved(models, MINUTE), device)


def test_a_minute_of_wan_is_counted_without_its_weights(wan_1b: Path) -> None:
    found = of(wan_1b, Settings(steps=50, policy=Window(2)))
    frame = 30 * 52  # tokens of a latent frame at 832x480
    assert (found.frames, found.seconds, found.fps, found.size) == (960, 60, 16, (832, 480))
    assert (found.chunks, found.calls) == (12, 12 * 51)
    assert (found.tokens_per_chunk, found.most_attended) == (21 * frame, 61 * frame)
    assert found.memory.weights == pytest.approx(1.42e9 * 2 + 127e6 * 4, rel=0.03)
    assert found.memory.text == pytest.approx(5.68e9 * 2, rel=0.03)
    a_frame = 2 * 2 * 30 * 1536 * 2 * frame  # keys and values of both guidance rows
    assert found.memory.cache == pytest.approx(a_frame * (40 + 40 + 21), rel=0.03)
    assert found.memory.peak > found.memory.weights + found.memory.cache
    assert "GB (weights 3.4, text encoder 11.4, cache" in dict(found.rows())["peak memory"]


def test_what_makes_it_cheaper(wan_1b: Path) -> None:
    usual = of(wan_1b, Settings(policy=Window(2)))
    unguided, short, full = (
        of(wan_1b, settings)
        for settings in (Settings(guidance=1.0), Settings(policy=Window(1)), Settings(policy=Full()))
    )
    assert unguided.operations == usual.operations / 2 and unguided.memory.cache == usual.memory.cache / 2
    assert short.operations < usual.operations < full.operations
    assert short.memory.cache < usual.memory.cache < full.memory.cache
    none = of(wan_1b, Settings(policy=Window(0)))
    assert none.memory.cache == pytest.approx(usual.memory.cache * 21 / 101, rel=0.1)
    assert of(wan_1b, Settings(), torch.float32).memory.cache == 2 * usual.memory.cache


def test_an_overlap_is_counted_and_not_cached(wan_1b: Path) -> None:
    """All chunks but the first, of 21, have 20 latent frames, and see 20 to 41 others."""
    none, two = (of(wan_1b, Settings(policy=Window(2), overlap=frames)) for frames in (0, 2))
    frame = 30 * 52
    assert (two.tokens_per_chunk, two.most_attended) == (22 * frame, 63 * frame)
    assert 263 / 241 < two.operations / none.operations < (22 * 63) / (20 * 61)
    assert two.memory.cache == none.memory.cache and two.memory.denoising > none.memory.denoising


GPU = torch.device("cuda")  # a label here: nothing is computed on it


def bank(folder: Path, storage: Storage, device: torch.device = GPU, policy: KeyValuePolicy | None = None) -> Memory:
    """Of a minute at 480p, 241 latent frames, with one guidance row; everything is remembered unless `policy` says."""
    models = describe_models(str(folder), torch.bfloat16)
    settings = Settings(policy=policy or Full(), guidance=1.0, storage=storage).resolved(models, MINUTE)
    return memory(models, MINUTE, settings, device)


def test_a_minute_of_dense_memory_is_69_gigabytes(wan_1b: Path) -> None:
    assert bank(wan_1b, Storage("host")).host == pytest.approx(69e9, rel=0.02)
    assert bank(wan_1b, Storage("host", "int8")).host == pytest.approx(69e9 / 2, rel=0.03)


def test_a_minute_of_semantic_memory_fits_in_24_gigabytes(wan_1b: Path) -> None:
    """At 1.3B and 480p, without guidance: 8 bits, in host memory, fetched when a chunk begins."""
    assert bank(wan_1b, Storage("host", "int8", 0), policy=Semantic(2, 2)).peak < 24e9
    assert bank(wan_1b, Storage(), policy=Semantic(2, 2)).peak > 69e9


def test_host_memory_takes_the_bank_off_the_gpu(wan_1b: Path) -> None:
    device, host = (bank(wan_1b, Storage(place), policy=Semantic()) for place in ("device", "host"))
    assert host.peak < device.peak - 0.5 * host.host and device.host == 0
    assert bank(wan_1b, Storage("host", ahead=0), policy=Semantic()).peak < host.peak
    assert "in host memory 69." in str(host) and "host" not in str(device)
    on_cpu = bank(wan_1b, Storage("host"), CPU)  # where host memory is the memory there is
    assert on_cpu == bank(wan_1b, Storage("device"), CPU) and on_cpu.host == 0


def test_the_cache_grows_with_what_is_held(wan_1b: Path) -> None:
    """A semantic memory holds as many chunks as a full one, of which few are looked at at a time."""
    policies = (Full(), Semantic(2, 2), Window(2), Window(1))
    full, semantic, two, one = (of(wan_1b, Settings(policy=policy)) for policy in policies)
    assert full.memory.cache > semantic.memory.cache > two.memory.cache > one.memory.cache
    assert full.most_attended > semantic.most_attended > two.most_attended > one.most_attended


def test_the_first_storage_that_fits_is_chosen(wan: Tiny) -> None:
    models = describe_models(str(wan.folder), torch.bfloat16)
    asked = Settings(policy=Full())
    settings = asked.resolved(models, MINUTE)
    whole, packed = (
        of(wan.folder, replace(asked, storage=Storage(precision=precision))).memory.peak
        for precision in ("native", "int8")
    )
    for budget, precision in ((whole, "native"), (whole - 1, "int8"), (packed, "int8")):
        assert fit(models, MINUTE, settings, CPU, budget) == replace(settings, storage=Storage("device", precision))
    with pytest.raises(InputError) as refusal:
        fit(models, MINUTE, settings, CPU, packed - 1)
    least = of(wan.folder, Settings(policy=Window(2))).memory.peak
    assert str(refusal.value) == (
        f"a memory of {packed / 1e9:.2f} GB is less than the {packed / 1e9:.2f} GB that this needs at least; "
        f"--keep window --window 2 would need {least / 1e9:.2f} GB"
    )


def test_the_advice_is_the_longest_window_that_fits_else_to_make_less(wan: Tiny) -> None:
    models = describe_models(str(wan.folder), torch.bfloat16)
    settings = Settings(policy=Full()).resolved(models, MINUTE)
    one = of(wan.folder, Settings(policy=Window(1), storage=Storage(precision="int8"))).memory.peak
    with pytest.raises(InputError, match=r"; --keep window --window 1, with int8 memories, would need"):
        fit(models, MINUTE, settings, CPU, one)
    with pytest.raises(InputError, match=r"a memory of 0\.10 GB is less than .*; use a smaller model, size or"):
        fit(models, MINUTE, settings, CPU, 1e8)


def test_a_description_is_what_loading_gives(tiny: Tiny) -> None:
    """Networks of the same names, shapes and types, the same sizes and settings; no weight file is opened."""
    loaded = load_models(str(tiny.folder), dtype=torch.bfloat16, width=64)
    described = describe_models(str(tiny.folder), torch.bfloat16, width=64)
    for a, b in ((loaded.dit, described.dit), (loaded.autoencoder.vae, described.autoencoder.vae)):
        expected = {name: (weight.shape, weight.dtype) for name, weight in a.state_dict().items()}
        assert {name: (weight.shape, weight.dtype) for name, weight in b.state_dict().items()} == expected
        assert all(weight.is_meta for weight in b.parameters())
    for name in ("name", "folder", "geometry", "defaults", "text"):
        assert getattr(loaded, name) == getattr(described, name)
    assert loaded.dit.fps_index == described.dit.fps_index


def test_a_folder_without_weights_is_described_and_not_loaded(tiny: Tiny, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("*.safetensors"))
    assert describe_models(str(folder)).geometry == load_models(str(tiny.folder)).geometry
    with pytest.raises(InputError, match="is missing, and holds weights"):
        load_models(str(folder))


def test_the_memory_predicted_is_about_the_memory_used(storybook: Tiny, tmp_path: Path) -> None:
    """Within a factor of two, as `Estimate` says, for a process that makes a video and nothing else."""
    (tmp_path / "board.txt").write_text("a fox runs\na red ball\n")
    command = [sys.executable, "-m", "blockvid", "generate", str(tmp_path / "board.txt"), *storybook.options]
    command = ["-c", "import sys; from blockvid.cli import main; main()", *command[3:], "-o", str(tmp_path / "a.mp4")]
    report = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert report.returncode == 0, report.stderr
    used = [float(size) for size in re.findall(r"([\d.]+) GB at most", report.stderr)][-1] * 1e9
    models = describe_models(str(storybook.folder))
    storyboard = Storyboard.read(tmp_path / "board.txt")
    predicted = estimate(models, storyboard, Settings().resolved(models, storyboard), CPU).memory.peak
    assert 0.5 < predicted / used < 2


def test_a_slow_processor_is_found_out_by_a_small_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that emulates bfloat16: a thousand rows would take it minutes."""
    rows: list[int] = []

    def slow(a: torch.Tensor, b: torch.Tensor, times: int) -> float:
        rows.append(len(a))
        return times * len(a) * b.numel() / 1e6

    monkeypatch.setattr("blockvid.estimate._seconds", slow)
    assert product_rate(CPU, torch.bfloat16, 256) == pytest.approx(2e6)
    assert rows == [2]
    monkeypatch.undo()
    assert product_rate(CPU, torch.float32, 64) > 1e8
