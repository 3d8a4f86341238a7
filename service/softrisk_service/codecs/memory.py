"""What has been worked out for a model version and may serve the next request, too."""

import threading
from collections.abc import Hashable
from typing import Any, Final

_CAPACITY: Final = 256


class Memory:
    """A dictionary of bounded size; the oldest entry makes room.

    Read without a lock by every request; written by few, from the event loop and from decoding threads.
    """

    def __init__(self) -> None:
        self._entries: dict[Hashable, Any] = {}
        self._lock = threading.Lock()
        self.get = self._entries.get
        """The entry of a key, or None."""

    def put(self, key: Hashable, value: Any) -> None:
        """Remember."""
        with self._lock:
            self._entries[key] = value
            if len(self._entries) > _CAPACITY:
                del self._entries[next(iter(self._entries))]
