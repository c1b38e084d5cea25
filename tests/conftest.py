"""While the tests run, every signature that takes tensors is checked: types by beartype, shapes by jaxtyping.

Geometry, storyboards, videos and journals are left out: they refuse wrong types themselves, and are tested for it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  before the hook, which would compile it anew
from jaxtyping import install_import_hook
from transformers import AutoTokenizer, BertModel, UMT5EncoderModel  # noqa: F401  likewise

sys.path.insert(0, str(Path(__file__).parent))  # the hook imports the checker by name
PACKAGES = ("attention", "model", "flow", "sampling", "batch", "training", "data", "storybook.corpus")
install_import_hook([f"blockvid.{name}" for name in PACKAGES], "signatures.checked")
torch.set_num_threads(1)  # as in the subprocesses of the tests: bits are compared across them

pytest.register_assert_rewrite("command_line", "tiny_models")
from command_line import run  # noqa: E402, F401  a fixture for all

LONG = ("test_ranks", "test_generate", "test_cli", "test_evaluate", "test_doctor", "test_cli_train", "test_storybook")
"""Files that take longest: begun first, for at the end one core would wait for another."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
