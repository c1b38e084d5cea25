"""Public checkpoints into the networks of this folder, in whichever layout they come.

Read are safetensors, torch's `.pth` and `.bin` (by `weights_only`, so that no code of theirs runs) and TorchScript
archives (by `archive`). A network takes exactly its own weights: one that is missing, left over or of another shape is
refused. Half precision becomes float32.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from einops import rearrange
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from blockvid.errors import InputError
from blockvid.evaluation.networks.archive import ArchiveError, is_torchscript, read_archive
from blockvid.evaluation.networks.efficientnet import EfficientNetLite0
from blockvid.evaluation.networks.musiq import MUSIQ, musiq_weights
from blockvid.evaluation.networks.raft import RAFT, raft_weights
from blockvid.evaluation.networks.vit import (
    CLIP_B32,
    CLIP_B32_DIM,
    CLIP_L14_DIM,
    DINO_B16,
    AestheticHead,
    ClipViT,
    DinoViT,
    ViTSizes,
)

Network = TypeVar("Network", bound=nn.Module)
WRAPPERS = ("state_dict", "model", "params")
"""Under which training scripts keep the weights beside other things."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The weights in a file under their own names, without the "module." of a parallel training.

    Raises InputError for a file that is absent, damaged or no checkpoint; it says so too of a saved web page.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing, and holds weights; name a file that is there, or fetch it")
    content: Any = _content(path)
    while isinstance(content, dict) and (inner := [content[key] for key in WRAPPERS if _is_dict(content.get(key))]):
        content = inner[0]
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"{path} holds no weights; use the checkpoint itself")
    if all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def _is_dict(value: object) -> bool:
    return isinstance(value, dict)


def _content(path: Path) -> dict[Any, Any]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if is_torchscript(path):
            return read_archive(path)
        content = _loaded(path)
    except (SafetensorError, ArchiveError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise InputError(_refusal(path, error)) from None
    except (RuntimeError, EOFError, ValueError, KeyError) as error:  # how torch.load takes damaged files
        raise InputError(_refusal(path, error)) from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not weights by name; use a state dict")
    return content


def _loaded(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if not zipfile.is_zipfile(path):
            raise
    return read_archive(path)  # settings of a training script beside the weights: classes that nobody needs


def _refusal(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        return f"{path} is a web page, not a checkpoint; download the raw file"
    if start.startswith(b"version https://git-lfs"):
        return f"{path} is a pointer of Git LFS, not the checkpoint; run git lfs pull, or download the file"
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{path} cannot be read as a checkpoint ({reason:.120}); download it again"


def loaded(
    build: Callable[[], Network], tensors: Mapping[str, Tensor], path: Path, device: str | torch.device = "cpu"
) -> Network:
    """The network of `build` with exactly these weights, frozen, in evaluation mode and float32.

    `path` is where they came from, for messages. Raises InputError for a missing, unexpected or wrongly shaped weight.
    """
    with torch.device("meta"):
        network = build()
    kind, expected = type(network).__name__, network.state_dict()
    if unexpected := sorted(set(tensors) - set(expected)):
        raise InputError(
            f"{path} holds {len(unexpected)} weights, such as {unexpected[0]}, that a {kind} has no place for; "
            "use the checkpoint that belongs to it"
        )
    if missing := sorted(set(expected) - set(tensors)):
        raise InputError(
            f"{path} lacks {len(missing)} weights of a {kind}, such as {missing[0]}; "
            "use the checkpoint that belongs to it"
        )
    for name, weight in expected.items():
        if tensors[name].shape != weight.shape:
            raise InputError(
                f"{name} in {path} is {tuple(tensors[name].shape)} where a {kind} has {tuple(weight.shape)}; "
                "use the checkpoint that belongs to it"
            )
    weights = {name: tensors[name].to(device, weight.dtype).contiguous() for name, weight in expected.items()}
    network.load_state_dict(weights, strict=True, assign=True)
    return network.eval().requires_grad_(False)


@dataclass(frozen=True)
class Layout:
    """Names that one library gives to the weights of a vision transformer.

    `sign` is a name that only this layout has. Weights whose names do not match `scope` belong to something else, such
    as a text encoder. `renames` are regular expressions and what takes their place, applied in order.
    """

    sign: str
    scope: str
    renames: tuple[tuple[str, str], ...] = ()

    def __call__(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same weights as `vit` names them."""
        translated = {}
        for name, tensor in tensors.items():
            if re.match(self.scope, name):
                for pattern, replacement in self.renames:
                    name = re.sub(pattern, replacement, name)
                translated[name] = tensor
        return _reshaped(translated)


TIMM_DINO = Layout(sign="patch_embed.proj.bias", scope="")
"""DINO's own, too."""
HF_DINO = Layout(
    sign="embeddings.patch_embeddings.projection.weight",
    scope=r"(?!pooler\.)",  # DINO has no pooler: transformers fills one with noise
    renames=(
        (r"^embeddings\.cls_token$", "cls_token"),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
        (r"^encoder\.layer\.", "blocks."),
        (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
        (r"\.attention\.output\.dense\.", ".attn.proj."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"\.output\.dense\.", ".mlp.fc2."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"^layernorm\.", "norm."),
    ),
)
TIMM_CLIP = Layout(sign="norm_pre.weight", scope="")
OPENAI_CLIP = Layout(
    sign="visual.conv1.weight",
    scope=r"visual\.",
    renames=(
        (r"^visual\.", ""),
        (r"^conv1\.", "patch_embed.proj."),
        (r"^class_embedding$", "cls_token"),
        (r"^positional_embedding$", "pos_embed"),
        (r"^transformer\.resblocks\.", "blocks."),
        (r"^ln_pre\.", "norm_pre."),
        (r"^ln_post\.", "norm."),
        (r"\.ln_(\d)\.", r".norm\1."),
        (r"\.attn\.in_proj_", ".attn.qkv."),
        (r"\.attn\.out_proj\.", ".attn.proj."),
        (r"\.mlp\.c_fc\.", ".mlp.fc1."),
        (r"\.mlp\.c_proj\.", ".mlp.fc2."),
        (r"^proj$", "head.transposed"),
    ),
)
"""open_clip's, too."""
HF_CLIP = Layout(
    sign="vision_model.pre_layrnorm.weight",
    scope=r"(vision_model\.(?!embeddings\.position_ids$)|visual_projection\.)",
    renames=(
        (r"^vision_model\.", ""),
        (r"^embeddings\.class_embedding$", "cls_token"),
        (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
        (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
        (r"^encoder\.layers\.", "blocks."),
        (r"\.self_attn\.q_proj\.", ".attn.query."),
        (r"\.self_attn\.k_proj\.", ".attn.key."),
        (r"\.self_attn\.v_proj\.", ".attn.value."),
        (r"\.self_attn\.out_proj\.", ".attn.proj."),
        (r"\.layer_norm(\d)\.", r".norm\1."),
        (r"^pre_layrnorm\.", "norm_pre."),
        (r"^post_layernorm\.", "norm."),
        (r"^visual_projection\.", "head."),
    ),
)


def _reshaped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Class token and positions with timm's leading axes; query, key and value in one; no bias of zeros."""
    result = {}
    for name, tensor in tensors.items():
        if name == "cls_token" and tensor.ndim == 1:
            result[name] = rearrange(tensor, "d -> 1 1 d")
        elif name == "pos_embed" and tensor.ndim == 2:
            result[name] = rearrange(tensor, "n d -> 1 n d")
        elif name == "head.transposed":
            result["head.weight"] = rearrange(tensor, "d e -> e d")
        elif ".attn.query." in name and (parts := _parts(name, tensors)):
            result[name.replace(".query.", ".qkv.")] = torch.cat(parts)
        elif (".attn.key." in name or ".attn.value." in name) and _parts(name, tensors):
            pass  # with its query
        elif not (name == "head.bias" and not tensor.any()):  # timm's converted CLIP has one, all zero
            result[name] = tensor
    return result


def _parts(name: str, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Query, key and value beside `name`; nothing if one is absent, which is then reported under its own name."""
    names = [re.sub(r"\.(query|key|value)\.", f".{part}.", name) for part in ("query", "key", "value")]
    return [tensors[part] for part in names] if all(part in tensors for part in names) else []


def _translated(tensors: Mapping[str, Tensor], layouts: Sequence[Layout], path: Path) -> dict[str, Tensor]:
    for layout in layouts:
        if layout.sign in tensors:
            return layout(tensors)
    raise InputError(
        f"{path} has no {' or '.join(layout.sign for layout in layouts)}, only such as {min(tensors)}; "
        "use a checkpoint of this network in its authors', Hugging Face's or timm's layout"
    )


def load_dino(path: Path, device: str | torch.device = "cpu", sizes: ViTSizes = DINO_B16) -> DinoViT:
    """DINO from its authors' file, timm's or that of transformers' ViTModel."""
    tensors = _translated(read_tensors(path), (TIMM_DINO, HF_DINO), path)
    return loaded(lambda: DinoViT(sizes), tensors, path, device)


def load_clip(
    path: Path, device: str | torch.device = "cpu", sizes: ViTSizes = CLIP_B32, dim: int = CLIP_B32_DIM
) -> ClipViT:
    """CLIP's image encoder from OpenAI's file, open_clip's, timm's, or that of transformers' CLIP models."""
    tensors = _translated(read_tensors(path), (OPENAI_CLIP, HF_CLIP, TIMM_CLIP), path)
    return loaded(lambda: ClipViT(sizes, dim), tensors, path, device)


def load_aesthetic(path: Path, device: str | torch.device = "cpu", dim: int = CLIP_L14_DIM) -> AestheticHead:
    """LAION's linear head."""
    return loaded(lambda: AestheticHead(dim), read_tensors(path), path, device)


def load_efficientnet(path: Path, device: str | torch.device = "cpu") -> EfficientNetLite0:
    """EfficientNet-Lite0 from the file of its Python package."""
    return loaded(EfficientNetLite0, read_tensors(path), path, device)


def load_musiq(path: Path, device: str | torch.device = "cpu") -> MUSIQ:
    """MUSIQ from the file of its PyTorch port."""
    return loaded(MUSIQ, musiq_weights(read_tensors(path)), path, device)


def load_raft(path: Path, device: str | torch.device = "cpu") -> RAFT:
    """RAFT from its authors' file or torchvision's."""
    return loaded(RAFT, raft_weights(read_tensors(path)), path, device)
