"""uvicorn around the application, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn

from . import descriptors
from .app import make_app
from .events import Hub
from .gate import Access
from .limits import Limits
from .memory import give_back_large_blocks
from .protocol import protocol
from .service import Service

QUEUE = 512  # connections that wait to be accepted
GRACE = 5  # seconds that calls under way get when the server is stopped


class _Server(uvicorn.Server):
    """Ends the streams of events when it is told to stop; they would keep it from stopping."""

    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
        super().__init__(config)
        self._hub = hub

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """The queue of those who wait to be accepted is long, although few are accepted at once."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(QUEUE)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._hub.close_soon()


def run(
    listener: socket.socket, data: Path, limits: Limits, environments: list[dict[str, str]], access: Access, ready: Callable[[], None]
) -> None:
    """ready: called when nothing stands in the way any more. Raises a Sam3dError where the data folder can't be used, or the process may open too few files."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    give_back_large_blocks()
    limits = descriptors.fitted(limits, len(environments))
    service = Service(data, limits, environments)
    app = make_app(service, access)
    ready()
    config = uvicorn.Config(
        app,
        http=protocol(limits),
        backlog=descriptors.ACCEPTED,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    _Server(config, service.hub).run(sockets=[listener])
