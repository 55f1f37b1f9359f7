"""Loaded into a Dask scheduler: the bytes through its sockets -> a number in the file that BYTES_MOVED names."""

import mmap
import os
import socket
import struct
from typing import Any

_SIZE = 8


def dask_setup(scheduler: Any) -> None:
    """Count what goes through every socket of this process from now on."""
    with open(os.environ["BYTES_MOVED"], "w+b") as file:
        file.write(bytes(_SIZE))
        file.flush()
        total = mmap.mmap(file.fileno(), _SIZE)
    for name in ("recv_into", "recv", "send", "sendmsg"):
        setattr(socket.socket, name, _counting(getattr(socket.socket, name), total))


def _counting(method: Any, total: mmap.mmap) -> Any:
    def counted(self: socket.socket, *args: Any, **options: Any) -> Any:
        moved = method(self, *args, **options)
        size = moved if isinstance(moved, int) else len(moved)
        total[:] = struct.pack("Q", struct.unpack("Q", total)[0] + size)
        return moved

    return counted
