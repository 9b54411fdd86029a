"""Who is served: one segmentation at a time, of one person's clicks only the latest, and a picture's preparation once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import numpy as np

from ...contract.errors import ConflictError, OptionError, SetupError
from .cascade import NAME, Cascade
from .prompt import Found, Prompt, Segmenter
from .sam import Sam2, Sam3

GROUP = "comfyui_sam3d.segmenters"
KEPT = 4  # pictures that stay prepared
PIXELS = 40_000_000  # of them together; a prepared picture takes a byte for each at most (cascade.py)
Load = Callable[[], "tuple[np.ndarray, np.ndarray | None]"]


def _foreign(entry: EntryPoint) -> Segmenter:
    made: Segmenter = entry.load()()
    return made


class Desk:
    def __init__(self) -> None:
        self._makers: dict[str, Callable[[], Segmenter]] = {NAME: Cascade, Sam2.name: Sam2, Sam3.name: Sam3}
        for entry in entry_points(group=GROUP):
            self._makers.setdefault(entry.name, partial(_foreign, entry))
        self._made: dict[str, Segmenter] = {}
        self._handles: OrderedDict[tuple[str, str], tuple[Any, int]] = OrderedDict()
        self._latest: dict[str, asyncio.Event] = {}
        self._lock: asyncio.Lock | None = None

    def known(self) -> dict[str, str]:
        """name -> why it can't be used; empty: it can."""
        return {name: self._why_not(name) for name in self._makers}

    def _why_not(self, name: str) -> str:
        try:
            return self._segmenter(name).unavailable()
        except Exception as problem:  # somebody else's code
            return f"{name} can't be loaded: {problem}"

    def _segmenter(self, name: str) -> Segmenter:
        if name not in self._makers:
            raise OptionError(f"There is no segmenter {name}.", f"Choose among: {', '.join(self._makers)}.")
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    @asynccontextmanager
    async def turn(self, session: str) -> AsyncIterator[None]:
        """Around `predict`, on the event loop's thread. Raises ConflictError as soon as a later call of the same session has come."""
        if self._lock is None:
            self._lock = asyncio.Lock()
        overtaken = asyncio.Event()
        before, self._latest[session] = self._latest.get(session), overtaken
        if before is not None:
            before.set()
        waiting, later = asyncio.ensure_future(self._lock.acquire()), asyncio.ensure_future(overtaken.wait())
        try:
            await asyncio.wait({waiting, later}, return_when=asyncio.FIRST_COMPLETED)
            if overtaken.is_set():
                raise ConflictError("A later click has taken this one's place.", "Take that one's answer.")
            yield
        finally:
            later.cancel()
            if not waiting.cancel() and not waiting.cancelled():
                self._lock.release()
            if self._latest.get(session) is overtaken:
                del self._latest[session]

    def predict(self, engine: str | None, picture: str, load: Load, prompt: Prompt) -> list[Found]:
        """In a worker thread, inside a `turn`. picture: its id. Raises a Sam3dError."""
        name = engine or NAME
        segmenter = self._segmenter(name)
        problem = segmenter.unavailable()
        if problem:
            raise SetupError(f"The segmenter {name} can't be used here.", problem)
        key = (name, picture)
        if key not in self._handles:
            self._prepare(key, segmenter, load)
        self._handles.move_to_end(key)
        return segmenter.predict(self._handles[key][0], prompt)

    def _prepare(self, key: tuple[str, str], segmenter: Segmenter, load: Load) -> None:
        """The picture itself is gone when this returns, unless the segmenter keeps it."""
        image, alpha = load()
        pixels = image.shape[0] * image.shape[1]
        while self._handles and (len(self._handles) >= KEPT or pixels + sum(many for _, many in self._handles.values()) > PIXELS):
            self._handles.popitem(last=False)
        self._handles[key] = segmenter.set_image(image, alpha), pixels
