"""Breaking a TCP connection the way networks do.

Lives here: `reset`. Does not: when or why a connection is broken.
"""

from __future__ import annotations

import asyncio
import socket
import struct

_NO_LINGERING = struct.pack("ii", 1, 0)


def reset(transport: asyncio.BaseTransport | None) -> None:
    """End a connection with a TCP reset: what waits is thrown away and the peer reads an error, not an end."""
    if not isinstance(transport, asyncio.Transport) or transport.is_closing():
        return
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
    transport.abort()
