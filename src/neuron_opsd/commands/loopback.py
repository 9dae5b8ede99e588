"""Ports of this machine alone."""

import errno
import socket

from neuron_opsd.errors import ConfigError

LOOPBACK = "127.0.0.1"


def take_port(port: int) -> socket.socket:
    """A socket that is bound to a port of the loopback address. 0 is any that is free.

    Raises:
        ConfigError: the port is in use, or not ours to take.
    """
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((LOOPBACK, port))
    except OSError as error:
        taken.close()
        reason = "in use" if error.errno == errno.EADDRINUSE else f"not available ({error.strerror})"
        raise ConfigError(
            f"--port is {port}, which is {reason} on {LOOPBACK}. Give another: --port {port % 60000 + 1024}."
        ) from None
    return taken
