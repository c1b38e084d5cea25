"""The cast of the storybook world: illustrated subjects, how they move and where their sprites come from."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from blockvid.errors import InputError

PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
INTEGRITY = "sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g=="
CACHE = Path.home() / ".cache" / "blockvid" / "subjects"

Kind = Literal["person", "animal", "vehicle", "object"]
Medium = Literal["ground", "water", "air"]
Faces = Literal["left", "right", "front"]
Motion = Literal["stride", "trot", "hop", "creep", "waddle", "drive", "ride", "roll", "swim", "sail", "fly", "float"]


@dataclass(frozen=True)
class Gait:
    """The verbs (third person) of a way of moving, slow and fast."""

    slow: tuple[str, ...]
    fast: tuple[str, ...]


GAITS: dict[str, Gait] = {
    "stride": Gait(("walks", "strolls", "wanders"), ("runs", "dashes", "hurries")),
    "trot": Gait(("walks", "trots", "ambles"), ("runs", "gallops", "races")),
    "hop": Gait(("hops", "bounces"), ("bounds", "leaps quickly")),
    "creep": Gait(("crawls", "creeps"), ("scurries", "scuttles")),
    "waddle": Gait(("waddles", "walks", "toddles"), ("scurries", "runs", "hurries")),
    "drive": Gait(("drives", "rolls", "cruises"), ("speeds", "races", "zooms")),
    "ride": Gait(("rides", "moves"), ("races", "speeds")),
    "roll": Gait(("rolls", "rolls slowly"), ("rolls quickly", "tumbles")),
    "swim": Gait(("swims", "glides"), ("swims quickly", "darts")),
    "sail": Gait(("sails", "drifts"), ("speeds", "races")),
    "fly": Gait(("flies", "glides"), ("flies quickly", "swoops")),
    "float": Gait(("floats", "drifts"), ("flies quickly", "whooshes")),
}


@dataclass(frozen=True)
class Subject:
    """A member of the cast; `size` scales its height relative to an average subject."""

    key: str
    file: str
    noun: str
    synonyms: tuple[str, ...]
    kind: Kind
    medium: Medium
    faces: Faces
    motion: Motion
    size: float = 1.0

    @property
    def gait(self) -> Gait:
        return GAITS[self.motion]


def _cast(kind: Kind, medium: Medium, table: str) -> tuple[Subject, ...]:
    """Rows of `file | faces | motion | size | noun, synonym, ...`; the key is the noun with underscores."""
    subjects = []
    for row in table.strip().splitlines():
        file, faces, motion, size, nouns = (field.strip() for field in row.split("|"))
        noun, *synonyms = (phrase.strip() for phrase in nouns.split(","))
        key = noun.replace(" ", "_").replace("-", "_")
        subjects.append(Subject(key, file, noun, tuple(synonyms), kind, medium, faces, motion, float(size)))  # type: ignore[arg-type]
    return tuple(subjects)


SUBJECTS: tuple[Subject, ...] = (
    *_cast(
        "animal",
        "ground",
        """
        1f98a | front | hop | 0.9 | red fox, fox, orange fox
        1f415 | left | trot | 0.95 | tan dog, dog, friendly dog
        1f429 | left | trot | 1.0 | grey poodle, poodle
        1f415-200d-1f9ba | left | trot | 1.0 | rescue dog, dog in a red vest
        1f408 | left | trot | 0.95 | ginger cat, orange cat
        1f408-200d-2b1b | left | trot | 0.95 | black cat, dark cat
        1f401 | left | creep | 0.85 | white mouse, little white mouse
        1f400 | left | creep | 0.85 | grey rat, dark rat
        1f407 | left | hop | 0.9 | white rabbit, rabbit, bunny
        1f43f-fe0f | left | hop | 0.95 | squirrel, chipmunk, brown squirrel
        1f994 | left | creep | 0.85 | hedgehog, little hedgehog
        1f9a8 | left | creep | 0.95 | skunk, black and white skunk
        1f9ab | left | waddle | 0.95 | beaver, brown beaver
        1f43c | front | hop | 0.9 | panda, panda bear
        1f981 | front | hop | 0.95 | lion, golden lion
        1f405 | left | trot | 0.95 | striped tiger, tiger, orange tiger
        1f406 | left | trot | 0.95 | spotted leopard, leopard
        1f404 | left | trot | 1.0 | spotted cow, cow, black and white cow
        1f402 | left | trot | 1.0 | brown ox, ox
        1f9ac | left | trot | 1.05 | bison, brown bison
        1f416 | left | trot | 0.9 | pink pig, pig
        1f411 | left | trot | 0.95 | white sheep, sheep, woolly sheep
        1f410 | left | trot | 0.95 | brown goat, goat
        1f40e | left | trot | 1.1 | brown horse, horse
        1facf | left | trot | 1.0 | grey donkey, donkey
        1f993 | left | trot | 1.1 | zebra, striped zebra
        1f98c | left | trot | 1.1 | deer, stag, brown deer
        1f999 | left | trot | 1.1 | white llama, llama
        1f42b | left | trot | 1.05 | camel, two-humped camel
        1f992 | left | trot | 1.25 | giraffe, tall giraffe
        1f418 | left | trot | 1.1 | grey elephant, elephant
        1f9a3 | left | trot | 1.15 | woolly mammoth, mammoth
        1f98f | left | trot | 1.0 | rhinoceros, grey rhino
        1f99b | left | trot | 0.95 | hippopotamus, hippo
        1f998 | left | hop | 1.1 | kangaroo, brown kangaroo
        1f98d | left | stride | 1.05 | gorilla, grey gorilla
        1f412 | front | hop | 1.0 | brown monkey, monkey
        1f9a7 | front | waddle | 1.05 | orangutan, orange ape
        1f427 | front | waddle | 0.95 | penguin, little penguin
        1f413 | left | waddle | 1.0 | rooster, colourful rooster
        1f424 | left | waddle | 0.85 | yellow chick, chick, baby chick
        1fabf | left | waddle | 1.0 | brown goose, goose
        1f9a9 | left | stride | 1.15 | pink flamingo, flamingo
        1f99a | front | waddle | 1.05 | peacock, blue and green peacock
        1f9a4 | left | waddle | 1.0 | dodo, grey dodo bird
        1f983 | left | waddle | 0.95 | turkey, brown turkey
        1f422 | left | creep | 0.85 | green turtle, turtle, tortoise
        1f40c | left | creep | 0.9 | brown snail, snail
        1f40d | left | creep | 0.95 | green snake, snake
        1f41b | left | creep | 0.9 | green caterpillar, caterpillar
        1f41e | front | creep | 0.9 | ladybird, red ladybug
        1f980 | front | creep | 0.9 | red crab, crab
        1f996 | left | stride | 1.15 | green tyrannosaurus, t-rex, green dinosaur with small arms
        1f995 | left | stride | 1.25 | long-necked dinosaur, green long-necked dinosaur
        1f409 | left | creep | 1.15 | green dragon, dragon
        """,
    ),
    *_cast(
        "animal",
        "air",
        """
        1f41d | left | fly | 0.8 | bumblebee, striped bee
        1f98b | front | fly | 0.85 | orange butterfly, butterfly
        1f985 | left | fly | 0.95 | eagle, brown eagle
        1f54a-fe0f | left | fly | 0.9 | white dove, dove
        1f989 | front | fly | 0.9 | brown owl, owl
        1f99c | left | fly | 0.9 | red parrot, parrot
        1f987 | front | fly | 0.9 | brown bat, bat
        """,
    ),
    *_cast(
        "animal",
        "water",
        """
        1f986 | left | swim | 0.9 | green-headed duck, mallard duck
        1f9a2 | left | swim | 1.0 | white swan, swan
        1f433 | left | swim | 1.0 | blue whale, spouting whale
        1f42c | left | swim | 0.95 | blue dolphin, dolphin
        1f988 | left | swim | 0.95 | grey shark, shark
        1f420 | left | swim | 0.85 | tropical fish, blue and yellow fish
        1f419 | front | swim | 0.9 | pink octopus, octopus
        1f9ad | left | swim | 0.9 | grey seal, seal
        1f9a6 | left | swim | 0.9 | brown otter, otter
        """,
    ),
    *_cast(
        "person",
        "ground",
        """
        1f6b6-1f3fc-200d-2642-fe0f | left | stride | 1.1 | man in a blue shirt, walking man
        1f6b6-1f3fe-200d-2640-fe0f | left | stride | 1.1 | woman in a purple shirt, walking woman
        1f483-1f3fd | left | stride | 1.1 | dancer in a red dress, woman in a red dress
        1f57a-1f3fb | front | stride | 1.1 | dancer in a blue suit, man in a blue suit
        1f9d9-200d-2642-fe0f | front | waddle | 1.05 | blue wizard, wizard with a white beard
        1f9d1-200d-1f680 | front | waddle | 1.0 | astronaut, astronaut in a white suit
        1f478-1f3fd | front | waddle | 1.05 | princess, princess with a golden crown
        1f934-1f3fe | front | waddle | 1.05 | prince, prince with a golden crown
        1f482-1f3fb | front | waddle | 1.05 | royal guard, guard in a red coat
        1f977-1f3fb | front | waddle | 1.0 | ninja, ninja in black
        1f6b4-1f3fd | left | ride | 1.05 | cyclist, person on a red bicycle
        1f3c7-1f3fc | left | trot | 1.1 | jockey on a horse, rider on a brown horse
        """,
    ),
    *_cast("person", "air", "1f9da-1f3fc-200d-2640-fe0f | front | fly | 1.0 | fairy, fairy with a wand"),
    *_cast("person", "water", "1f6a3-1f3fd | left | sail | 1.05 | rower, person in a green rowing boat"),
    *_cast(
        "vehicle",
        "ground",
        """
        1f697 | left | drive | 0.85 | red car, car
        1f699 | left | drive | 0.95 | blue jeep, blue car
        1f695 | left | drive | 0.85 | yellow taxi, taxi
        1f68c | left | drive | 1.0 | orange and white bus, bus
        1f692 | left | drive | 1.0 | fire engine, red fire truck
        1f691 | left | drive | 1.0 | ambulance, white ambulance
        1f69a | left | drive | 1.0 | orange truck, delivery truck
        1f6fb | left | drive | 0.85 | red pickup truck, pickup truck
        1f69c | left | drive | 1.0 | green tractor, tractor
        1f3ce-fe0f | left | drive | 0.75 | racing car, red racing car
        1f3cd-fe0f | left | drive | 0.85 | motorcycle, red motorbike
        1f6f5 | left | drive | 0.95 | red scooter, motor scooter
        1f682 | left | drive | 1.0 | steam train, locomotive, steam engine
        1f683 | front | drive | 1.0 | yellow tram, tram, yellow tramcar
        1f6fa | left | drive | 0.95 | rickshaw, green and yellow rickshaw
        1f6f7 | left | drive | 0.85 | wooden sled, sledge
        """,
    ),
    *_cast(
        "vehicle",
        "air",
        """
        1f681 | left | float | 0.9 | orange helicopter, helicopter
        1f6f8 | front | float | 0.9 | flying saucer, blue ufo
        1f388 | front | float | 1.0 | red balloon, balloon
        1fa82 | front | float | 1.05 | parachutist, colourful parachute
        """,
    ),
    *_cast(
        "vehicle",
        "water",
        """
        26f5 | front | sail | 1.1 | sailing boat, orange sailboat
        1f6a4 | left | sail | 1.05 | speedboat, orange motorboat
        1f6a2 | left | sail | 1.05 | red and white ship, big ship
        1f6f6 | front | sail | 1.0 | canoe, orange canoe
        """,
    ),
    *_cast(
        "object",
        "ground",
        """
        26bd | front | roll | 0.8 | football, blue and white soccer ball
        1f3c0 | front | roll | 0.8 | basketball, orange basketball
        1f383 | front | hop | 0.85 | carved pumpkin, jack-o'-lantern, orange pumpkin
        26c4 | front | hop | 1.05 | snowman, snowman in a blue scarf
        1f9f8 | front | hop | 0.95 | teddy bear, brown teddy
        1f381 | front | hop | 0.85 | red gift box, present with a red ribbon
        1f344 | front | hop | 0.9 | red mushroom, red toadstool
        1f335 | front | hop | 1.05 | green cactus, cactus
        1f916 | front | hop | 0.9 | friendly robot, robot
        1f47b | front | float | 0.95 | white ghost, ghost
        23f0 | front | hop | 0.85 | alarm clock, red alarm clock
        """,
    ),
)


@lru_cache(maxsize=1)
def _by_key() -> dict[str, Subject]:
    return {subject.key: subject for subject in SUBJECTS}


def subject_named(key: str) -> Subject:
    """The subject with this key; InputError if there is none."""
    try:
        return _by_key()[key]
    except KeyError:
        raise InputError(f"subject {key!r} is not in the cast; use one of {', '.join(sorted(_by_key()))}") from None


def fetch_subjects(cache_dir: Path = CACHE) -> Path:
    """Download the sprite package with npm, verify it and unpack the sprites of the cast into `cache_dir`."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise InputError(f"npm is not installed, {PACKAGE} is fetched with it; install Node.js") from None
        except subprocess.CalledProcessError as failure:
            reason = failure.stderr.strip().splitlines()[-1:] or ["no reason given"]
            raise InputError(f"npm could not fetch {PACKAGE} ({reason[0]}); check the network and try again") from None
        (archive,) = Path(folder).glob("*.tgz")
        return unpack_subjects(archive, cache_dir)


def unpack_subjects(archive: Path, cache_dir: Path = CACHE, integrity: str = INTEGRITY) -> Path:
    """Unpack the cast's sprites from a downloaded package; InputError unless its sha512 digest is `integrity`."""
    digest = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != integrity:
        raise InputError(f"{archive.name} has digest {digest}, not {integrity}; delete it and fetch {PACKAGE} again")
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as package:
        for subject in SUBJECTS:
            member = package.extractfile(f"package/assets/{subject.file}.webp")
            assert member is not None, subject.file
            (cache_dir / f"{subject.file}.webp").write_bytes(member.read())
    return cache_dir


@lru_cache(maxsize=256)
def load_sprite(key: str, cache_dir: Path = CACHE) -> Float[Tensor, "4 h w"]:
    """The subject's picture as premultiplied RGBA in [0, 1], cropped to what is visible."""
    path = cache_dir / f"{subject_named(key).file}.webp"
    if not path.exists():
        raise InputError(f"{path} does not exist, the storybook needs its sprites; run scripts/fetch_subjects.py")
    pixels = np.asarray(Image.open(path).convert("RGBA"), dtype=np.float32) / 255
    rows, columns = np.nonzero(pixels[..., 3] > 0.05)
    pixels = pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    image = rearrange(torch.from_numpy(pixels.copy()), "h w c -> c h w")
    return torch.cat([image[:3] * image[3:], image[3:]])
