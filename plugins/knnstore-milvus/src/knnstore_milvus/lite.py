"""milvus-lite: a small Milvus in this process, over a folder; each folder is served while a store on it is open."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

from knnstore.errors import StoreBusyError
from knnstore.remote import Patience
from knnstore_milvus.connection import Connection, Credentials
from knnstore_milvus.expressions import LITE

__all__ = ["connect", "exists"]

_lock = threading.Lock()
_users: Counter[str] = Counter()


def exists(file: str) -> bool:
    """Whether there is anything at this path."""
    return Path(file).exists()


def connect(file: str, patience: Patience) -> Connection:
    """Start serving a folder, unless this process does already, and connect to it.

    Raises:
        ImportError: milvus-lite is not installed.
        StoreBusyError: it cannot be served; most often another process does.
    """
    from milvus_lite.server_manager import server_manager_instance as manager

    with _lock:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        address = manager.start_and_get_uri(file)
        if address is None:
            raise StoreBusyError(f"{file}: milvus-lite cannot open it; does another process have it open?")
        _users[file] += 1
    return _LiteConnection(address.removeprefix("http://"), file, patience)


class _LiteConnection(Connection):
    """The last one to hang up ends the service, and with it the lock on the folder."""

    lite = True
    language = LITE

    def __init__(self, address: str, file: str, patience: Patience) -> None:
        super().__init__(address, Credentials(), "default", patience)
        self._file = file

    def close(self) -> None:
        from milvus_lite.server_manager import server_manager_instance as manager

        super().close()
        with _lock:
            file, self._file = self._file, ""
            if not file:
                return
            _users[file] -= 1
            if not _users[file]:
                manager.release_server(file)
