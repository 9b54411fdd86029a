"""The engines by name; each loads only when it is asked for. `auto` takes the last one listed."""

from __future__ import annotations

from collections.abc import Callable

from ..job import Engine


def _draft() -> Engine:
    from .draft import reconstruct

    return reconstruct


ENGINES: dict[str, Callable[[], Engine]] = {"draft": _draft}
