"""OpenCV, which only evaluation needs: imported where it is used."""

from __future__ import annotations

from types import ModuleType

from blockvid.errors import InputError


def opencv() -> ModuleType:
    """The module, set to one thread: DIS flow depends on how many there are, and videos are scored side by side.

    Raises InputError where it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise InputError("OpenCV is not installed; run `pip install 'blockvid[eval]'`") from error
    cv2.setNumThreads(1)
    return cv2
