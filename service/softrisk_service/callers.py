"""Who calls, and what they may see: by their keys where the operator has made any, else by where they call from."""

import hmac
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Self

from softrisk_service.disclosure import Disclosure
from softrisk_service.errors import ConfigurationError, UnauthorizedError
from softrisk_service.keys import Key, digest, read_keys
from softrisk_service.settings import Settings


class Callers:
    """Tells what a caller may see, whichever way the request takes.

    Args:
        keys: Those that open the service; None if it asks for none.
    """

    def __init__(self, keys: tuple[Key, ...] | None) -> None:
        self._keys = keys

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Those that the settings name.

        Raises:
            ConfigurationError: If the keys cannot be read, or there are none in the file.
        """
        if settings.keys is None:
            return cls(None)
        keys = read_keys(settings.keys)
        if not keys:
            raise ConfigurationError(f"{settings.keys} holds no key: make one with softrisk keys add")
        return cls(keys)

    @property
    def have_keys(self) -> bool:
        """Whether the service asks for keys."""
        return self._keys is not None

    def disclosure(self, authorization: str | None, address: str | None) -> Disclosure:
        """What a caller may see.

        Args:
            authorization: The header of this name.
            address: The other end of the connection; headers that tell of another one are not looked at, since
                anybody can write them.

        Raises:
            UnauthorizedError: If a key is asked for, and there is none or a wrong one.
        """
        if self._keys is None:
            return "full" if address is not None and _is_loopback(address) else "coarse"
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise UnauthorizedError("this service asks for a key: send it as Authorization: Bearer KEY")
        given, found = digest(token), None
        for key in self._keys:  # all of them, so that the time tells nothing
            if hmac.compare_digest(key.sha256, given):
                found = key.disclosure
        if found is None:
            raise UnauthorizedError("the key is none of this service's")
        return found


@lru_cache(maxsize=1024)
def _is_loopback(address: str) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    # An IPv4 caller of a socket that takes both.
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return (mapped or parsed).is_loopback
