"""Who is served: one segmentation at a time on small pictures and one on large ones, of one person's clicks only the latest, and a picture's preparation once."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import numpy as np

from ...contract.errors import ConflictError, OptionError, SetupError
from .cascade import NAME, Cascade
from .prompt import Found, Prompt, Segmenter
from .sam import Sam2, Sam3

GROUP = "comfyui_sam3d.segmenters"
LARGE = 4_000_000  # pixels; a click on a smaller picture takes 100 MB at most, and waits for none on a larger one
KEPT = 4  # pictures of a lane that stay prepared
PIXELS = 40_000_000  # of them together; a prepared picture takes a byte for each at most (cascade.py)
Load = Callable[[], "tuple[np.ndarray, np.ndarray | None]"]


def _foreign(entry: EntryPoint) -> Segmenter:
    made: Segmenter = entry.load()()
    return made


class Lane:
    """Where one is served after the other. handles: the prepared pictures of a segmenter, with their pixels."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.handles: OrderedDict[tuple[str, str], tuple[Any, int]] = OrderedDict()


class Desk:
    def __init__(self) -> None:
        self._makers: dict[str, Callable[[], Segmenter]] = {NAME: Cascade, Sam2.name: Sam2, Sam3.name: Sam3}
        for entry in entry_points(group=GROUP):
            self._makers.setdefault(entry.name, partial(_foreign, entry))
        self._made: dict[str, Segmenter] = {}
        self._alone: dict[str, AbstractContextManager[Any]] = {}
        self._making = threading.Lock()
        self._lanes = Lane(), Lane()
        self._latest: dict[str, asyncio.Event] = {}

    def lane(self, pixels: int) -> Lane:
        """The one for a picture of this size."""
        return self._lanes[pixels > LARGE]

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
        with self._making:
            if name not in self._made:
                self._made[name] = self._makers[name]()
                self._alone[name] = nullcontext() if getattr(self._made[name], "parallel", False) else threading.Lock()
            return self._made[name]

    @asynccontextmanager
    async def turn(self, session: str, lane: Lane, room: AbstractAsyncContextManager[Any]) -> AsyncIterator[None]:
        """Around `predict`, on the event loop's thread. room: what it takes beside its turn. Raises ConflictError as soon as a later call of the same session
        has come, unless this one has begun."""
        overtaken = asyncio.Event()
        before, self._latest[session] = self._latest.get(session), overtaken
        if before is not None:
            before.set()
        async with AsyncExitStack() as held:

            async def come() -> None:
                await held.enter_async_context(lane.turn)
                await held.enter_async_context(room)

            waiting, later = asyncio.ensure_future(come()), asyncio.ensure_future(overtaken.wait())
            try:
                await asyncio.wait({waiting, later}, return_when=asyncio.FIRST_COMPLETED)
                if overtaken.is_set():
                    raise ConflictError("A later click has taken this one's place.", "Take that one's answer.")
                await waiting
                yield
            finally:
                later.cancel()
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)  # only now it is known what is held
                if self._latest.get(session) is overtaken:
                    del self._latest[session]

    def predict(self, engine: str | None, picture: str, load: Load, prompt: Prompt, lane: Lane) -> list[Found]:
        """In a worker thread, inside a `turn` of this lane. picture: its id. Raises a Sam3dError."""
        name = engine or NAME
        segmenter = self._segmenter(name)
        problem = segmenter.unavailable()
        if problem:
            raise SetupError(f"The segmenter {name} can't be used here.", problem)
        key = (name, picture)
        if key not in lane.handles:
            self._prepare(key, segmenter, load, lane)
        lane.handles.move_to_end(key)
        with self._alone[name]:
            return segmenter.predict(lane.handles[key][0], prompt)

    def _prepare(self, key: tuple[str, str], segmenter: Segmenter, load: Load, lane: Lane) -> None:
        """The picture itself is gone when this returns, unless the segmenter keeps it."""
        image, alpha = load()
        pixels = image.shape[0] * image.shape[1]
        while lane.handles and (len(lane.handles) >= KEPT or pixels + sum(many for _, many in lane.handles.values()) > PIXELS):
            lane.handles.popitem(last=False)
        with self._alone[key[0]]:
            lane.handles[key] = segmenter.set_image(image, alpha), pixels
