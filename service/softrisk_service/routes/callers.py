"""Who calls, on the ordinary way: the dependency of all routes that do not answer everybody alike."""

from collections.abc import Awaitable, Callable
from typing import Final

from fastapi.security import HTTPBearer
from starlette.requests import Request

from softrisk_service.callers import Callers
from softrisk_service.disclosure import Disclosure

BEARER: Final = HTTPBearer(
    scheme_name="key",
    description="A key made by `softrisk keys add`. Needed only where the operator has configured keys.",
    auto_error=False,
)
"""Documents which routes ask for keys; they are read by `Callers`, as on the short way."""


def identify_by(callers: Callers) -> Callable[[Request], Awaitable[None]]:
    """A dependency that notes what the caller may see, for `disclosure_of`.

    Args:
        callers: Who tells.
    """

    async def identify(request: Request) -> None:
        address = request.client.host if request.client else None
        request.state.disclosure = callers.disclosure(request.headers.get("authorization"), address)

    return identify


def disclosure_of(request: Request) -> Disclosure:
    """What the caller of a request may see, who has been identified."""
    disclosure: Disclosure = request.state.disclosure
    return disclosure
