"""What decoding one request may cost."""

from softrisk_service.errors import ClientGoneError, TooLargeError


class Allowance:
    """What one request may still take; decoding asks it before each costly step.

    Args:
        max_instances: Most instances.
        max_pixels: Most pixels of all images together.
        max_samples: Most samples of all recordings together.
        max_json_bytes: Most bytes of JSON before binary tensors.

    Attributes:
        max_instances: Most instances.
        max_json_bytes: Most bytes of JSON before binary tensors.
    """

    def __init__(self, max_instances: int, max_pixels: int, max_samples: int, max_json_bytes: int) -> None:
        self.max_instances = max_instances
        self.max_json_bytes = max_json_bytes
        self._max_pixels = max_pixels
        self._pixels = 0
        self._max_samples = max_samples
        self._samples = 0
        self._withdrawn = False  # set by one thread, read by another: no more is needed

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

    def take_samples(self, samples: int) -> None:
        """Spend samples of recordings, before they are decoded.

        Raises:
            TooLargeError: If there are too many.
        """
        self._samples += samples
        if self._samples > self._max_samples:
            raise TooLargeError(
                f"the recordings have {self._samples} samples together, each as many as the model takes; "
                f"{self._max_samples} are accepted in one request"
            )

    def withdraw(self) -> None:
        """Let a decoding thread stop at its next step: nobody waits for what it does."""
        self._withdrawn = True

    def check(self) -> None:
        """Go on only if somebody still waits.

        Raises:
            ClientGoneError: If nobody does.
        """
        if self._withdrawn:
            raise ClientGoneError
