"""What decoding one request may cost."""

import threading

from softrisk_service.errors import ClientGoneError, TooLargeError


class Allowance:
    """What one request may still take; decoding asks it before each costly step.

    Args:
        max_instances: Most instances.
        max_pixels: Most pixels of all images together.

    Attributes:
        max_instances: Most instances.
    """

    def __init__(self, max_instances: int, max_pixels: int) -> None:
        self.max_instances = max_instances
        self._max_pixels = max_pixels
        self._pixels = 0
        self._withdrawn = threading.Event()

    def take_pixels(self, pixels: int) -> None:
        """Spend pixels, before they are decoded.

        Raises:
            TooLargeError: If there are too many.
        """
        self._pixels += pixels
        if self._pixels > self._max_pixels:
            raise TooLargeError(
                f"the images have {self._pixels} pixels together, as stored or as resized, whichever is more; "
                f"{self._max_pixels} are accepted in one request"
            )

    def withdraw(self) -> None:
        """Let a decoding thread stop at its next step: nobody waits for what it does."""
        self._withdrawn.set()

    def check(self) -> None:
        """Go on only if somebody still waits.

        Raises:
            ClientGoneError: If nobody does.
        """
        if self._withdrawn.is_set():
            raise ClientGoneError
