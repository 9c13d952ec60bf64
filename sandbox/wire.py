"""What HTTP alone cannot say: a connection that is reset, a client that has gone."""

import socket
import struct
from typing import Final, cast

from aiohttp import web

_LINGER_NOT: Final = struct.pack("ii", 1, 0)


def reset(request: web.BaseRequest) -> web.StreamResponse:
    """Reset the connection under the client: no answer, no proper end."""
    transport = request.transport
    if transport is not None:
        connection = cast("socket.socket | None", transport.get_extra_info("socket"))
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        transport.abort()
    return web.Response()


def is_gone(request: web.BaseRequest) -> bool:
    return request.transport is None or request.transport.is_closing()
