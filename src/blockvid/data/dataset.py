"""What the numbers in a folder of shards mean, and which models may be trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from blockvid.errors import InputError
from blockvid.files import replacing
from blockvid.geometry import Geometry
from blockvid.model.load import Models, Sizes, Text
from blockvid.model.weights import fingerprint, weight_files

NAME = "dataset.json"
LatentType = Literal["float16", "bfloat16", "float32"]


class Dataset(BaseModel):
    """dataset.json: what the numbers in the shards mean."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    model: str
    """As it was named; the same autoencoder under another name is as good."""
    autoencoder: str
    """sha256 of the autoencoder's weights and config."""
    geometry: Geometry
    latents: LatentType
    text: Text
    text_slots: int
    """Tokens that a prompt is padded to again when it is read."""
    text_mask: bool
    """Whether the transformer is told which slots are padding."""

    @classmethod
    def of(cls, models: Models, text_slots: int, latents: LatentType = "float16") -> Dataset:
        """What shards made with `models` hold."""
        return cls(
            model=models.name,
            autoencoder=autoencoder_digest(models),
            geometry=models.geometry,
            latents=latents,
            text=models.text,
            text_slots=text_slots,
            text_mask=models.text_mask,
        )

    @property
    def sizes(self) -> Sizes:
        """What a model is loaded with to learn from these shards."""
        return Sizes.of(self.geometry)

    @staticmethod
    def found(folder: Path) -> bool:
        """Whether a folder says that it holds shards."""
        return (folder / NAME).exists()

    @classmethod
    def read(cls, folder: Path) -> Dataset:
        """Of a folder of shards. Raises InputError if it is none."""
        path = folder / NAME
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise InputError(
                f"{folder} holds no training shards (no {NAME}: {error.strerror}); make some with "
                f"`blockvid data encode VIDEOS --out {folder}`"
            ) from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{path}: {where or 'the file'}: {first['msg']}; encode again into a new folder") from None

    def check(self, models: Models) -> None:
        """InputError unless `models`, loaded with the `sizes` of what it learns from, can read these shards."""
        wanted = {
            "text encoder": (self.text, models.text),
            "latent channels": (self.geometry.latent_channels, models.geometry.latent_channels),
            "autoencoder": (self.autoencoder[:12], autoencoder_digest(models)[:12]),
        }
        for what, (ours, theirs) in wanted.items():
            if ours != theirs:
                raise InputError(
                    f"the shards were encoded with {self.model}, whose {what} is {ours}, and {models.name} has "
                    f"{theirs}; encode the videos again with --model {models.name}"
                )
        if self.geometry != models.geometry:
            ours, theirs = self.sizes, Sizes.of(models.geometry)
            raise InputError(
                f"the shards are of {ours}, and the model is trained at {theirs}; encode the videos again, all alike"
            )

    def check_same(self, other: Dataset, folder: Path) -> None:
        """InputError unless `other`, about to be added to the folder, means the same."""
        for name in sorted(set(type(self).model_fields) - {"model"}):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                raise InputError(
                    f"{folder} holds shards with {name} {ours}, not {theirs}; encode into a new folder or use the same"
                )


def autoencoder_digest(models: Models) -> str:
    """sha256 over the autoencoder's weights and config."""
    folder = models.folder / "vae"
    return fingerprint(models.folder, (folder / "config.json", *weight_files(folder)))


def read_empty(folder: Path) -> dict[str, Tensor]:
    """The embedding of no prompt in a folder of shards."""
    path = folder / "empty.safetensors"
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read ({error}); encode again into a new folder") from error


def write_empty(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Write the embedding of no prompt; it appears whole or not at all."""
    with replacing(folder / "empty.safetensors") as part:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)
