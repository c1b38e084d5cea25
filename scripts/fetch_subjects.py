"""Fetch the storybook's sprites (Fluent Emoji 3D, MIT) into the cache folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from blockvid.storybook.subjects import CACHE, fetch_subjects

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache-dir", type=Path, default=CACHE)
    print(fetch_subjects(parser.parse_args().cache_dir))
