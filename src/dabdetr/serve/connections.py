"""Connections of the service, which uvicorn leaves without limits: slow heads, and how many."""

from __future__ import annotations

import asyncio

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS = 10
"""Within which a request's head comes whole; a connection may be idle as long."""
MOST = 500
"""Connections at the same time; of more, the oldest that waits for a request is closed."""


class Connection(H11Protocol):
    """One client's connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self.begun = self.loop.time()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )
        if len(self.connections) > MOST:
            mine = (each for each in self.connections if isinstance(each, Connection))
            idle = [each for each in mine if each.timeout_keep_alive_task is not None]
            min(idle, key=lambda each: each.begun).timeout_keep_alive_handler()

    def data_received(self, data: bytes) -> None:
        # uvicorn ends the wait at the first byte; here it goes on until the head is whole
        wait, self.timeout_keep_alive_task = self.timeout_keep_alive_task, None
        super().data_received(data)
        if wait is None:
            return
        if self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = wait
        else:
            wait.cancel()


def make_server(app: ASGIApp, seconds: int = SECONDS) -> uvicorn.Server:
    """uvicorn around an application, with limits on connections."""
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        timeout_keep_alive=seconds,
        log_level="error",  # a request that is no HTTP is answered, not logged
        access_log=False,
        server_header=False,
    )
    return uvicorn.Server(config)
