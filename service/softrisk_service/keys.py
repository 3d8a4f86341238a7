"""API keys at rest: a small JSON file of names, levels of disclosure and digests, never of the keys themselves."""

import hashlib
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from softrisk_service.disclosure import Disclosure
from softrisk_service.errors import ConfigurationError

_PREFIX: Final = "softrisk_"
"""Lets scanners for leaked secrets, and people, see what a key is for."""
_RANDOM_BYTES: Final = 32
_PRIVATE: Final = 0o600


class Key(BaseModel):
    """What is kept of a key."""

    # Whatever somebody put into the file by mistake, perhaps the key itself, is not repeated by an error.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Whose it is; for the operator only."""
    disclosure: Disclosure
    """What its holder may see."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Digest of the key."""


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    keys: tuple[Key, ...]


def new_token() -> str:
    """A new key, with 256 random bits."""
    return _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def digest(token: str) -> str:
    """What is kept of a key. A fast hash will do: nobody can guess 256 random bits, however fast."""
    return hashlib.sha256(token.encode()).hexdigest()


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys in a file.

    Raises:
        ConfigurationError: If it is missing or not such a file; what it says is not repeated.
    """
    try:
        keys = _KeyFile.model_validate_json(path.read_bytes()).keys
    except OSError as error:
        raise ConfigurationError(f"the keys in {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        # Without its cause, whose text may hold a piece of the file.
        raise ConfigurationError(
            f"{path} is no file of keys: {place or 'JSON'} is not as `softrisk keys` writes"
        ) from None
    if len({key.name for key in keys}) < len(keys):
        raise ConfigurationError(f"{path} holds two keys of one name")
    return keys


def write_keys(path: Path, keys: tuple[Key, ...]) -> None:
    """Write a file whole or not at all; its permissions stay, and a new one is the owner's only.

    Raises:
        ConfigurationError: If it cannot be written.
    """
    document = _KeyFile(keys=keys).model_dump_json(indent=2) + "\n"
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else _PRIVATE
        descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(document)
            os.chmod(draft, mode)
            os.replace(draft, path)
        except OSError:
            with suppress(OSError):
                os.unlink(draft)
            raise
    except OSError as error:
        raise ConfigurationError(f"the keys in {path} cannot be written: {error.strerror}") from error
