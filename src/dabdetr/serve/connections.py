"""Limits on the connections of the service, which uvicorn does not have: number and slow heads."""

from __future__ import annotations

import asyncio

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS = 10
"""Most seconds for the head of a request, and for an idle connection."""
MOST = 500
"""Most connections at a time; above it the oldest one that waits for a request is closed."""


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
        # uvicorn stops its timer at the first byte; here it runs until the head is complete
        wait, self.timeout_keep_alive_task = self.timeout_keep_alive_task, None
        super().data_received(data)
        if wait is None:
            return
        if self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = wait
        else:
            wait.cancel()


def make_server(app: ASGIApp, seconds: int = SECONDS) -> uvicorn.Server:
    """A uvicorn server for an application, with limits on connections."""
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        timeout_keep_alive=seconds,
        log_level="error",  # requests that are not HTTP are answered but not logged
        access_log=False,
        server_header=False,
    )
    return uvicorn.Server(config)
