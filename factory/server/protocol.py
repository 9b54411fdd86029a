"""uvicorn's HTTP protocol with one more timer: a connection has so many seconds to send a whole request head."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_LATE = b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s"
_TEXT = b'{"error":{"code":"E_TIME_LIMIT","message":"The request came too slowly.","hint":"Send it again over a faster connection."}}'


def protocol(head_time: float) -> type[asyncio.Protocol]:
    """A protocol class for uvicorn's `http`."""

    class Timed(H11Protocol):
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._late = self.loop.call_later(head_time, self._too_late)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            waiting = self.cycle is None or self.cycle.response_complete
            if not waiting and self._late is not None:
                self._late.cancel()
                self._late = None
            elif waiting and self._late is None:  # the first bytes of the next head on a connection that is kept
                self._late = self.loop.call_later(head_time, self._too_late)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._late is not None:
                self._late.cancel()
            super().connection_lost(exc)

        def _too_late(self) -> None:
            if not self.transport.is_closing():
                self.transport.write(_LATE % (len(_TEXT), _TEXT))
                self.transport.close()

    return Timed
