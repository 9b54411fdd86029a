"""OpenCV, where it is installed. It isn't part of every layer, so nothing imports it when it loads."""

from __future__ import annotations

import functools
from typing import Any

from ..contract.errors import SetupError

_HINT = "Add it with: python install.py --layers base,server"


@functools.cache
def cv2() -> Any:
    """The module. Raises SetupError."""
    try:
        import cv2
    except ImportError:
        raise SetupError("This needs OpenCV, which is not installed.", _HINT) from None
    return cv2


def missing() -> str:
    """Why it can't be used, with what to do; empty where it can."""
    try:
        cv2()
    except SetupError as problem:
        return f"{problem.message} {problem.hint}"
    return ""
