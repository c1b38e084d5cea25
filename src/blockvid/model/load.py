"""Model folders and hub ids to a bundle of networks, sizes and the settings their authors recommend.

Three kinds of folder are read: our own (with a `blockvid.json`: the embedded model and training's exports),
and diffusers' folders of Wan 2.1 text-to-video and of SkyReels-V2 diffusion forcing. One of our own may hold adapters
alone (LoRA), and name the model that they are for.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import torch
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError
from torch import nn

from blockvid.errors import InputError
from blockvid.files import replacing
from blockvid.geometry import Geometry
from blockvid.model.adapters import ADAPTER, fuse
from blockvid.model.autoencoder import Autoencoder, WanAutoencoder
from blockvid.model.dit import BlockDiT
from blockvid.model.text import MiniLMText, TextEncoder, UMT5Text
from blockvid.model.weights import (
    TRANSFORMERS_STEM,
    fingerprint,
    in_precision,
    load_strictly,
    read_json,
    weight_files,
)

if TYPE_CHECKING:
    from blockvid.model.storybook_vae import StorybookVAE

CARD = "blockvid.json"
STORYBOOK = Path(__file__).parent.parent / "storybook" / "weights"
EMBEDDED = {"storybook": STORYBOOK, "storybook-fast": STORYBOOK / "fast"}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_ENCODERS = ["*.json", "vae/*.safetensors", "text_encoder/*.safetensors", "tokenizer/*"]
HUB_FILES = [*HUB_ENCODERS, "transformer/*.safetensors", ADAPTER]
HUB_CONFIGS = ["*.json"]
TRANSFORMERS = ("BlockDiT", "WanTransformer3DModel", "SkyReelsV2Transformer3DModel")
PIPELINES = {"WanPipeline": "wan", "SkyReelsV2DiffusionForcingPipeline": "skyreels"}

Text = Literal["minilm", "umt5"]
Said = TypeVar("Said", bound=BaseModel)


@dataclass(frozen=True)
class Defaults:
    """What a checkpoint's authors recommend for sampling. Raises InputError for a value that cannot be sampled with.

    `pipeline.Settings` is checked as one of these, so these are the ranges.
    """

    steps: int
    guidance: float
    shift: float
    negative_prompt: str
    solver: Literal["unipc", "euler", "renoise"] = "unipc"
    context_noise: float = 0.0
    guidance_rule: Literal["cfg", "cfg-zero"] = "cfg"
    overlap: int = 0
    dissolve: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1000:
            raise InputError(
                f"{self.steps} steps are outside 1 to 1000, the levels that a model tells apart; use 10 to 50"
            )
        if not 0 < self.shift < float("inf"):
            raise InputError(f"a shift of {self.shift} is not a finite number above 0; use 1 for none")
        if not 0 <= self.guidance <= 100:
            raise InputError(
                f"guidance {self.guidance} is outside 0 to 100; use 1 for none, about 3 to 8 to follow prompts"
            )
        if not 0 <= self.context_noise < 1:
            raise InputError(
                f"context noise {self.context_noise} is outside 0 to 1; use 0 for none, or about 0.02 to 0.1"
            )
        if self.overlap < 0:
            raise InputError(f"an overlap of {self.overlap} latent frames is below 0; use 0 for none, or 1")
        if not 0 <= self.dissolve < float("inf"):
            raise InputError(f"a dissolve of {self.dissolve} is not a finite number of at least 0; use 0 for none")


class Sizes(BaseModel):
    """The part of a `Geometry` that is a choice; its strides are the networks'."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    width: int
    height: int
    fps: float
    chunk_frames: int

    @classmethod
    def of(cls, geometry: Geometry) -> Sizes:
        """That part of a geometry."""
        return cls(**{name: getattr(geometry, name) for name in cls.model_fields})

    def __str__(self) -> str:
        return f"{self.width} x {self.height} at {self.fps:g} fps, {self.chunk_frames} latent frames a chunk"


class Card(BaseModel):
    """What `blockvid.json` says beyond the networks' own config files."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    geometry: Sizes
    defaults: Defaults
    text: Text


class Added(BaseModel):
    """What it says of adapters. The rest of it takes the place of what their base's card says, as far as it goes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    base: str
    """The model that they are added to, by a path from the folder or as `--model` takes it."""
    strength: FiniteFloat = 1.0
    """How much of them is added. What trains them further begins at 1."""


NEGATIVE = "blurry, washed out, overexposed, distorted anatomy, extra fingers, subtitles, watermark, static frame"

WAN = Card(
    geometry=Sizes(width=832, height=480, fps=16.0, chunk_frames=20),
    defaults=Defaults(steps=50, guidance=6.0, shift=8.0, negative_prompt=NEGATIVE),
    text="umt5",
)
SKYREELS = Card(
    geometry=Sizes(width=832, height=480, fps=24.0, chunk_frames=24),
    defaults=Defaults(steps=30, guidance=6.0, shift=8.0, negative_prompt=NEGATIVE),
    text="umt5",
)


@dataclass(frozen=True)
class Adapters:
    """A file of LoRA, the model that it is for, as `load_models` takes it, and how much of it is added there."""

    file: Path
    base: str
    strength: float


@dataclass(frozen=True)
class Models:
    """Everything that makes a video, except the text encoder, which is made on demand and may be freed again.

    `folder` has all networks: of adapters, that of their base, to which they have been added. `fingerprint` is a sha256
    over the transformer's and the autoencoder's weights, adapters and configs; the text encoder is not part of it.
    """

    name: str
    folder: Path
    dit: BlockDiT
    autoencoder: Autoencoder
    geometry: Geometry
    defaults: Defaults
    text: Text
    fingerprint: str
    adapters: Adapters | None = None

    @property
    def text_mask(self) -> bool:
        """Whether cross-attention is told which slots are padding; Wan attends to all 512, zeros included."""
        return self.text == "minilm"

    def text_encoder(self) -> TextEncoder:
        """A fresh text encoder on the autoencoder's device. Raises InputError if its files are absent or do not fit."""
        device = self.autoencoder.device
        if self.text == "minilm":
            encoder: TextEncoder = MiniLMText(device=device)
        else:
            weight_files(self.folder / "text_encoder", TRANSFORMERS_STEM)
            encoder = UMT5Text.from_folder(self.folder, device)
        width = self.dit.config["text_dim"]
        if encoder.dim != width:
            raise InputError(
                f"{self.text} gives {encoder.dim} channels a token, but the transformer of {self.name} reads {width}; "
                f"correct text in {self.folder / CARD} or the transformer's config.json"
            )
        return encoder


def load_models(
    name_or_folder: str,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    width: int | None = None,
    height: int | None = None,
    fps: float | None = None,
    chunk_frames: int | None = None,
) -> Models:
    """The models of an `EMBEDDED` name, of a folder, or of a hub id "owner/name" (the local cache first).

    `dtype` is the transformer's, whatever the files hold; the autoencoder is in float32, since bfloat16 costs visible
    detail. Sizes that are None are the checkpoint's. Raises InputError for anything that cannot be read or is no
    text-to-video model of the Wan family.
    """
    found = _Found.of(name_or_folder)
    folder, adapters = found.folder, found.adapters
    dit, dit_files = _transformer(folder / "transformer", device, dtype if adapters is None else torch.float32)
    autoencoder, vae_files = _autoencoder(folder, device)
    digest = fingerprint(folder, (*dit_files, *vae_files))
    if adapters is not None:
        fuse(dit, adapters.file, adapters.strength)
        dit = in_precision(dit, dtype)  # rounded once, after the sum
        added = fingerprint(adapters.file.parent, (adapters.file,))
        much = "" if adapters.strength == 1 else f" {adapters.strength}"
        digest = hashlib.sha256(f"{digest} {added}{much}".encode()).hexdigest()
    return _models(found, dit, autoencoder, width, height, fps, chunk_frames, digest)


def load_transformer(name_or_folder: str) -> BlockDiT:
    """The transformer alone of a model that is no adapters, in float32. Raises InputError as `load_models` does."""
    return _transformer(find(name_or_folder) / "transformer", "cpu", torch.float32)[0]


def load_encoders(
    name_or_folder: str,
    device: str | torch.device = "cpu",
    width: int | None = None,
    height: int | None = None,
    fps: float | None = None,
    chunk_frames: int | None = None,
) -> Models:
    """What turns videos and prompts into training data: as `load_models`, but of the transformer only its shape.

    The fingerprint is empty, as in `describe_models`. Raises InputError as `load_models` does.
    """
    found = _Found.of(name_or_folder, HUB_ENCODERS)
    dit, (autoencoder, _) = _transformer_network(found.folder / "transformer"), _autoencoder(found.folder, device)
    return _models(found, dit, autoencoder, width, height, fps, chunk_frames, "")


def describe_models(
    name_or_folder: str,
    dtype: torch.dtype = torch.float32,
    width: int | None = None,
    height: int | None = None,
    fps: float | None = None,
    chunk_frames: int | None = None,
) -> Models:
    """What `load_models` would load, from the config files alone: networks of shapes, on the meta device.

    No weight file is read or need exist, and of a hub id only the configs are downloaded; the fingerprint, which is of
    weights, is empty. Raises InputError as `load_models` does.
    """
    found = _Found.of(name_or_folder, HUB_CONFIGS)
    dit = in_precision(_transformer_network(found.folder / "transformer"), dtype)
    autoencoder = _autoencoder_of_shapes(found.folder / "vae")
    return _models(found, dit, autoencoder, width, height, fps, chunk_frames, "")


@dataclass(frozen=True)
class _Found:
    """A model's card, the folder of its networks, and the adapters to be added to them."""

    name: str
    card: Card
    folder: Path
    adapters: Adapters | None

    @classmethod
    def of(cls, name_or_folder: str, files: list[str] = HUB_FILES) -> _Found:
        folder = find(name_or_folder, files)
        said = _said(folder)
        if "base" not in said:  # another pipeline's folder is refused for what it is, not for a file that it lacks
            return cls(name_or_folder, read_card(folder), folder, None)
        added = _valid(Added, {name: said.pop(name) for name in Added.model_fields if name in said}, folder)
        beside = folder / added.base
        named = str(beside.resolve()) if beside.is_dir() else added.base
        base = find(named, files)
        if "base" in _said(base):
            raise InputError(
                f"{folder / CARD} names {added.base}, which is adapters itself; name the model they are for"
            )
        card = read_card(base).model_dump()
        for name, value in said.items():
            both = isinstance(value, dict) and isinstance(card.get(name), dict)
            card[name] = card[name] | value if both else value
        return cls(name_or_folder, _valid(Card, card, folder), base, Adapters(folder / ADAPTER, named, added.strength))


def _models(
    found: _Found,
    dit: BlockDiT,
    autoencoder: Autoencoder,
    width: int | None,
    height: int | None,
    fps: float | None,
    chunk_frames: int | None,
    digest: str,
) -> Models:
    _check_channels(found.folder, dit, autoencoder)
    card, sizes = found.card, found.card.geometry
    geometry = Geometry(
        width=sizes.width if width is None else width,
        height=sizes.height if height is None else height,
        fps=sizes.fps if fps is None else fps,
        chunk_frames=sizes.chunk_frames if chunk_frames is None else chunk_frames,
        temporal_stride=autoencoder.temporal_stride,
        spatial_stride=autoencoder.spatial_stride,
        patch=tuple(dit.config["patch_size"]),
        latent_channels=autoencoder.channels,
    )
    dit.fps_index = 0 if geometry.fps == 16 else 1
    return Models(
        name=found.name,
        folder=found.folder,
        dit=dit,
        autoencoder=autoencoder,
        geometry=geometry,
        defaults=card.defaults,
        text=card.text,
        fingerprint=digest,
        adapters=found.adapters,
    )


def save_blockvid_json(
    folder: Path, geometry: Geometry, defaults: Defaults, text: Text, base: str | None = None
) -> None:
    """Makes a folder with `transformer` and `vae` readable by `load_models`; umt5 needs its own folders there too.

    With `base`, one that holds adapters for the model of that name, and no networks.
    """
    said = Card(geometry=Sizes.of(geometry), defaults=defaults, text=text).model_dump()
    if base is not None:
        said["base"] = base
    with replacing(folder / CARD) as part:  # the old one may be a link to another folder's
        part.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def find(name_or_folder: str, files: list[str] = HUB_FILES) -> Path:
    """The folder that a model's name means; downloads `files` of it if it is a hub id that the local cache lacks."""
    if name_or_folder in EMBEDDED:
        embedded = EMBEDDED[name_or_folder]
        if not embedded.is_dir():
            raise InputError(
                f"{embedded} is missing: this installation carries no storybook weights; reinstall blockvid, "
                "or name the folder that `blockvid train storybook_base` wrote"
            )
        return embedded
    folder = Path(name_or_folder)
    if folder.is_dir():
        return folder
    if HUB_ID.fullmatch(name_or_folder):
        return _snapshot(name_or_folder, files)
    raise InputError(
        f"{name_or_folder!r} is no model; use {' or '.join(EMBEDDED)}, a model folder, or a hub id such as "
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    )


def _snapshot(repository: str, files: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=files, local_files_only=True))
    except LocalEntryNotFoundError:
        pass  # absent or incomplete: download what is missing
    try:
        return Path(snapshot_download(repository, allow_patterns=files))
    except (HTTPError, OSError, ValueError) as error:
        raise InputError(
            f"{repository} is neither a folder nor in the local cache, and the hub did not give it ({_line(error)}); "
            "check the name and the network, or name a downloaded folder"
        ) from None


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def read_card(folder: Path) -> Card:
    """The sizes and settings of a model folder: its own `blockvid.json`, or those known for diffusers' pipelines."""
    if (folder / CARD).is_file():
        return _valid(Card, _said(folder), folder)
    if not (folder / "model_index.json").is_file():
        raise InputError(
            f"{folder} has neither {CARD} nor model_index.json; name a folder that blockvid exported or one in "
            "diffusers' form (on the hub its name ends in -Diffusers)"
        )
    index = read_json(folder / "model_index.json")
    family = PIPELINES.get(str(index.get("_class_name")))
    if family is None:
        raise InputError(
            f"{folder} is a {index.get('_class_name')}, and only {' and '.join(PIPELINES)} can be generated chunk by "
            "chunk; use Wan-AI/Wan2.1-T2V-1.3B-Diffusers or Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers"
        )
    if any(index.get("transformer_2") or ()):
        raise InputError(f"{folder} has two transformers (Wan 2.2 A14B), and one is run here; use Wan 2.1")
    return WAN if family == "wan" else SKYREELS


def _said(folder: Path) -> dict[str, Any]:
    """The folder's `blockvid.json`, or nothing."""
    return read_json(folder / CARD) if (folder / CARD).is_file() else {}


def _valid(kind: type[Said], said: dict[str, Any], folder: Path) -> Said:
    try:
        return kind.model_validate_json(json.dumps(said))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{folder / CARD}: {where} {first['input']!r:.80}: {first['msg']}; correct it") from None


def _transformer(folder: Path, device: str | torch.device, dtype: torch.dtype) -> tuple[BlockDiT, tuple[Path, ...]]:
    network, files = _transformer_network(folder), weight_files(folder)
    return load_strictly(lambda: network, files, device, dtype), (folder / "config.json", *files)


def _transformer_network(folder: Path) -> BlockDiT:
    """The transformer without its weights, on the meta device."""
    path = folder / "config.json"
    config = read_json(path)
    kind = config.get("_class_name")
    if kind not in TRANSFORMERS:
        raise InputError(f"{path} describes a {kind}, not one of {', '.join(TRANSFORMERS)}; use a Wan 2.1 model")
    known = [name for name in inspect.signature(BlockDiT.__init__).parameters if name != "self"]
    unknown = sorted(name for name in config if not name.startswith("_") and name not in known)
    if unknown:
        raise InputError(f"{path} sets {unknown[0]}, which no text-to-video Wan model has; use a Wan 2.1 model")
    chosen: dict[str, Any] = {name: config[name] for name in known if name in config}
    try:
        with torch.device("meta"):
            return BlockDiT(**chosen)
    except (TypeError, ZeroDivisionError) as error:
        raise InputError(f"{path} does not describe a transformer ({_line(error)}); download it again") from None
    except ValueError as error:
        raise InputError(f"{path} is refused: {error}; use Wan2.1-T2V or SkyReels-V2-DF") from None


def _autoencoder(folder: Path, device: str | torch.device) -> tuple[Autoencoder, tuple[Path, ...]]:
    path = folder / "vae" / "config.json"
    kind = _autoencoder_kind(path)
    files = weight_files(folder / "vae")
    if kind == "AutoencoderKLWan":
        return WanAutoencoder.from_folder(folder, device), (path, *files)
    from blockvid.model.storybook_vae import StorybookAutoencoder

    vae = load_strictly(lambda: _storybook_network(path), files, device, torch.float32)
    return StorybookAutoencoder(vae), (path, *files)


def _autoencoder_of_shapes(folder: Path) -> Autoencoder:
    path = folder / "config.json"
    if _autoencoder_kind(path) == "AutoencoderKLWan":
        from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

        with torch.device("meta"):
            network = AutoencoderKLWan.from_config(read_json(path))
        return WanAutoencoder(cast(nn.Module, network))
    from blockvid.model.storybook_vae import StorybookAutoencoder

    with torch.device("meta"):
        return StorybookAutoencoder(_storybook_network(path))


def _autoencoder_kind(path: Path) -> str:
    kind = read_json(path).get("_class_name")
    if kind not in ("AutoencoderKLWan", "StorybookVAE"):
        raise InputError(f"{path} describes a {kind}; use AutoencoderKLWan or StorybookVAE")
    return kind


def _storybook_network(path: Path) -> StorybookVAE:
    from blockvid.model.storybook_vae import StorybookVAE

    try:
        return StorybookVAE(**{name: value for name, value in read_json(path).items() if not name.startswith("_")})
    except TypeError as error:
        raise InputError(f"{path} does not describe a StorybookVAE ({_line(error)}); export it again") from None


def _check_channels(folder: Path, dit: BlockDiT, autoencoder: Autoencoder) -> None:
    given = dit.config["in_channels"], dit.config["out_channels"]
    if given != (autoencoder.channels, autoencoder.channels):
        raise InputError(
            f"the transformer in {folder} reads {given[0]} channels and writes {given[1]}, but its autoencoder has "
            f"{autoencoder.channels}; use a text-to-video model (image-to-video ones read extra channels)"
        )
