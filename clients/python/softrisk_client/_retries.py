"""Which failures are tried again, and after how long.

Every call reads or computes and changes nothing, so that sending one twice is harmless.
"""

import time
from collections.abc import Callable

from softrisk_client.errors import ResponseError, TransportError

_PASSING = frozenset({408, 429, 502, 503, 504})


def backoff(total_timeout: float) -> Callable[[Exception], bool | float]:
    """Return stamina's backoff hook for one call.

    The hook answers True for an exponential wait, a number for the seconds that `Retry-After` asks for, and False
    where another attempt is of no use, which includes a wait that ends after `total_timeout` seconds from now.
    """
    deadline = time.monotonic() + total_timeout

    def hook(error: Exception) -> bool | float:
        if isinstance(error, TransportError):
            return True
        if not isinstance(error, ResponseError) or error.status not in _PASSING:
            return False
        if error.retry_after is None:
            return True
        return error.retry_after if time.monotonic() + error.retry_after < deadline else False

    return hook
