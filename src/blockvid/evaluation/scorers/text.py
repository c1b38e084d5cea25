"""Whether frames show what their caption says, by a text-image model that the user brings.

The model is a folder in the layout of transformers' CLIPModel: config.json, model.safetensors and a tokenizer. Captions
are no part of the rows, so that they can change without the video being read again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32

from blockvid.errors import InputError
from blockvid.evaluation.metric import Metric, Tier
from blockvid.evaluation.networks.preprocess import OPENAI, CentreCrop, Channels, Normal
from blockvid.evaluation.scorers.consistency import BLOCK, Similarity, exact_cosines, row, unusable
from blockvid.evaluation.series import Footage, Reader, Rows, Series, Window
from blockvid.model.weights import fingerprint, read_json, weight_files

PICTURES = "preprocessor_config.json"
"""What a folder says of how pictures are made; without it, as OpenAI's."""


@dataclass(frozen=True)
class TextImage:
    """A folder with a text-image model, fingerprinted; `TextImage.of` makes one."""

    folder: Path
    sha256: str
    """Of all its files that matter."""

    @classmethod
    def of(cls, folder: str | Path) -> TextImage:
        """The model in a folder. Raises InputError if that lacks weights, config.json or a tokenizer."""
        folder = Path(folder)
        kind = read_json(folder / "config.json").get("model_type")
        if kind != "clip":
            raise InputError(f"{folder} holds a model of type {kind!r}; use one that transformers loads as CLIPModel")
        weights = weight_files(folder, "model")
        named = ("config.json", PICTURES, "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
        files = [path for path in (folder / name for name in named) if path.is_file()]
        if not {"tokenizer.json", "vocab.json"} & {path.name for path in files}:
            raise InputError(f"{folder} has no tokenizer.json; download the tokenizer that belongs to the model")
        return cls(folder, fingerprint(folder, (*weights, *files)))

    def load(self, device: torch.device) -> Any:
        """The network, frozen. Raises InputError if weights and config.json do not belong together."""
        from transformers import CLIPModel

        try:
            loaded: Any = CLIPModel.from_pretrained(
                self.folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError) as error:
            why = str(error).strip().splitlines()[0]
            raise InputError(f"{self.folder} cannot be loaded as a CLIPModel ({why:.120}); download it again") from None
        network, report = loaded
        if report["missing_keys"]:
            raise InputError(f"{self.folder} lacks weights such as {min(report['missing_keys'])}; download it again")
        return network.to(device).eval().requires_grad_(False)

    def picture(self) -> CentreCrop:
        """How a frame becomes what the network reads: short side, bicubic, the middle; not antialiased."""
        config = read_json(self.folder / "config.json").get("vision_config") or {}
        made = read_json(self.folder / PICTURES) if (self.folder / PICTURES).is_file() else {}
        normal = Normal(_channels(made.get("image_mean"), OPENAI.mean), _channels(made.get("image_std"), OPENAI.std))
        return CentreCrop(int(config.get("image_size", 224)), "bicubic", normal)

    def texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "n e"]:
        """Embeddings; texts are cut off where the model's end. Raises InputError for a tokenizer that is none."""
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError) as error:
            why = str(error).strip().splitlines()[0]
            raise InputError(f"{self.folder} has no tokenizer that can be read ({why:.120}); download it") from None
        network = self.load(torch.device("cpu"))
        limit = network.config.text_config.max_position_embeddings
        # One at a time: a batch would be padded, and a tokenizer need not know with what.
        tokens = [tokenizer(text, truncation=True, max_length=limit, return_tensors="pt") for text in texts]
        with torch.no_grad():
            found = [network.get_text_features(t["input_ids"], t["attention_mask"]).pooler_output for t in tokens]
        return row(torch.cat(found))


def _channels(given: Any, otherwise: Channels) -> Channels:
    red, green, blue = given or otherwise
    return float(red), float(green), float(blue)


@dataclass(frozen=True)
class Images:
    """image: the model's embedding of the middle of each frame; seconds: its time."""

    model: TextImage
    name: str = "text-image"

    @property
    def identity(self) -> str:
        """The model's files; version 1 of everything else."""
        return f"text-image 1 {self.model.sha256}"

    def open(self, footage: Footage, device: torch.device) -> Reader:  # noqa: ARG002
        """Load the network. Raises InputError."""
        network, picture = self.model.load(device), self.model.picture()

        @torch.no_grad()
        def read(window: Window) -> Rows:
            pictures = torch.stack([picture(p.pixels) for p in window.wanted])
            return {
                "image": row(network.get_image_features(pictures.to(device)).pooler_output),
                "seconds": np.array([p.seconds for p in window.wanted], dtype=np.float32),
            }

        return Reader(read)


@dataclass(frozen=True)
class Alignment:
    """A score that can be sent to another process: the mean cosine of a frame with the caption shown at its time."""

    model: TextImage
    known: dict[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)
    """Embeddings of captions that were asked for before: the text encoder is loaded once for all segments."""

    def __call__(self, series: Series, span: range, footage: Footage) -> float:
        """Of a span; nan where `measured` has a flag, or nothing in it has a caption."""
        return self.measured(series, span, footage).value

    def measured(self, series: Series, span: range, footage: Footage) -> Similarity:
        """Frames at whose time there is no caption are left out."""
        seconds = np.asarray(series["text-image.seconds"][span.start : span.stop], dtype=np.float64)
        shown = shown_at(seconds, footage)
        captioned = np.flatnonzero(shown >= 0)
        if not len(captioned):
            return Similarity(math.nan, ("no caption",))
        texts = self._embedded([caption.text for caption in footage.captions])
        total = 0.0
        for start in range(0, len(captioned), BLOCK):
            frames = captioned[start : start + BLOCK]
            images = np.asarray(series["text-image.image"][span.start + frames[0] : span.start + frames[-1] + 1])
            pair = images[frames - frames[0]], texts[shown[frames]]
            if flags := unusable(np.concatenate(pair)):
                return Similarity(math.nan, flags)
            total += float(exact_cosines(*pair).sum())
        return Similarity(total / len(captioned))

    def _embedded(self, texts: Sequence[str]) -> Float32[np.ndarray, "n e"]:
        new = sorted(set(texts) - set(self.known))
        if new:
            self.known.update(zip(new, self.model.texts(new), strict=True))
        return np.stack([self.known[text] for text in texts])


def shown_at(seconds: Float[np.ndarray, " t"], footage: Footage) -> np.ndarray:
    """The index of the caption shown at each time, the later one where two are; -1 where none is."""
    shown = np.full(len(seconds), -1)
    for index, caption in enumerate(footage.captions):
        shown[(caption.start <= seconds) & (seconds < caption.end)] = index
    return shown


def metrics(model: TextImage | None = None, tier: Tier = "light") -> tuple[Metric, ...]:
    """text_alignment, of the tier that it is shown with, if a model is given."""
    if model is None:
        return ()
    return (
        Metric(
            name="text_alignment",
            tier=tier,
            title="Text alignment",
            formula="mean cos of a frame's embedding with that of the caption shown at its time",
            extractors=(Images(model),),
            score=Alignment(model),
            better="higher",
            bounds=(-1, 1),
            model=model.sha256,
        ),
    )
