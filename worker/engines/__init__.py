"""The engines by name; each loads only when it is asked for. `auto` takes the last one listed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from ...contract.errors import SetupError
from ..job import Engine
from ..weights import locate


def _draft() -> Engine:
    from .draft import reconstruct

    return reconstruct


def _sam3d() -> Engine:
    if importlib.util.find_spec("torch") is None:
        raise SetupError("The engine sam3d needs PyTorch, which the worker's environment lacks.", "Type: python install.py --layers model")
    from .sam3d.engine import engine

    return engine()


def engines() -> dict[str, Callable[[], Engine]]:
    """By what is there when the worker starts: `auto` is sam3d where its packages and weights are found, else the draft."""
    known: dict[str, Callable[[], Engine]] = {"draft": _draft, "sam3d": _sam3d}
    return known if locate.ready() else dict(reversed(known.items()))
