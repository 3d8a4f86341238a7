"""The sockets that the service listens on."""

import errno
import os
import socket
from contextlib import ExitStack
from typing import Any, Final

from softrisk_service.errors import ConfigurationError

_NOT_HERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on every address of a host.

    Args:
        host: Name or address; empty for all interfaces.
        port: 0 for any free one, the same on every address.

    Raises:
        ConfigurationError: If the host has no address on this machine, or the port cannot be had.
    """
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"no host is called {host}: choose an address of this machine with --host") from error
    absent: OSError | None = None
    with ExitStack() as opened:
        sockets: list[socket.socket] = []
        for family, address in dict.fromkeys((family, address) for family, *_, address in found):
            taken = sockets[0].getsockname()[1] if sockets else port
            try:
                listener = socket.create_server((address[0], taken, *address[2:]), family=family)
            except OSError as error:
                # localhost has an IPv6 address by name even on machines without IPv6.
                if error.errno not in _NOT_HERE:
                    raise ConfigurationError(_explained(error, host, port)) from error
                absent = error
            else:
                _no_delay(listener)
                sockets.append(opened.enter_context(listener))
        if absent is not None and not sockets:
            raise ConfigurationError(_explained(absent, host, port)) from absent
        opened.pop_all()
    return sockets


def share(listener: socket.socket) -> socket.socket:
    """Another socket on the same address, of a process of its own: bound, not listening yet.

    The kernel divides new connections evenly among those that listen.
    """
    # Not from the first on: then a second service on this port would take a part of the connections unnoticed.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    other = socket.socket(listener.family, socket.SOCK_STREAM)
    try:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if other.family == socket.AF_INET6:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _no_delay(other)
        other.bind(listener.getsockname())
    except BaseException:
        other.close()
        raise
    return other


def url(listener: socket.socket) -> str:
    """Where a socket is found."""
    address: Any = listener.getsockname()
    host = f"[{address[0]}]" if listener.family == socket.AF_INET6 else address[0]
    return f"http://{host}:{address[1]}"


def _no_delay(listener: socket.socket) -> None:
    """Let connections send at once what is written: else an answer in two pieces may wait 40 ms for an ACK between."""
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _explained(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"port {port} on {host} is taken: choose another with --port"
        case errno.EACCES | errno.EPERM:
            return f"port {port} on {host} is not permitted to this user: choose one above 1023 with --port"
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            return f"{host} is no address of this machine: choose one with --host"
        case code:
            return f"cannot listen on port {port} of {host}: {os.strerror(code or 0)}"
