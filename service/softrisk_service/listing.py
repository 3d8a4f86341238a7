"""A model repository as it lies on disk: its versions, whether their files changed, and which is the default.

`<repository>/<model>/default` is a text file with the number of a version: no higher one answers by default. It is
how a rollback reaches every process and outlasts a restart; without it the highest version is the default.
"""

import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from softrisk_core.bundle import MANIFEST, SEALED
from softrisk_core.repository import Repository
from softrisk_service.errors import ConfigurationError, RepositoryError
from softrisk_service.settings import Settings

DEFAULT: Final = "default"

_LONGEST: Final = 64
"""Characters read of the file: more than a number, so that what is no number is seen to be none."""

Identity = tuple[tuple[int, ...] | None, ...]
"""Changes whenever a file of a bundle is written, replaced or removed; the report does not count."""


@dataclass(frozen=True)
class ModelFolder:
    """A model on disk.

    Attributes:
        versions: Ascending, each with the identity of its files.
        default: The highest version that may be the default; None for no limit.
        fault: What is wrong with the file that says so.
    """

    versions: Mapping[int, Identity]
    default: int | None = None
    fault: str | None = None


def check_repository(settings: Settings) -> None:
    """Refuse to start where there is nothing to serve.

    Raises:
        ConfigurationError: If the repository folder is missing or unreadable, or holds no model, or is one.
    """
    try:
        _check_folder(settings.repository)
    except OSError as error:
        raise ConfigurationError(f"{error.filename} cannot be read: {error.strerror}") from error


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigurationError(f"no model repository at {folder}: name the folder that `softrisk export --out` wrote")
    if Repository(folder).models():
        return
    home = folder.resolve()
    above = folder.parent if folder.name == home.name else home.parent
    if Repository(home.parent).versions(home.name):
        raise ConfigurationError(f"{folder} is a model, not a repository: softrisk serve {above}")
    raise ConfigurationError(f"{folder} holds no model: write one there with softrisk export --out {folder}")


def look(repository: Repository) -> dict[str, ModelFolder]:
    """What there is, by model name.

    Raises:
        RepositoryError: If a folder cannot be read.
    """
    found = {}
    try:
        for name in repository.models():
            with suppress(FileNotFoundError):
                found[name] = _look_at(repository, name)
        return {name: folder for name, folder in found.items() if folder.versions}  # else deleted since it was listed
    except OSError as error:
        raise RepositoryError(f"the repository cannot be read: {error.strerror}") from error


def _look_at(repository: Repository, name: str) -> ModelFolder:
    home = repository.folder / name
    versions = {version: _identity(home / str(version)) for version in repository.versions(name)}
    try:
        with (home / DEFAULT).open(encoding="utf-8", errors="replace") as file:
            text = file.read(_LONGEST).strip()
    except FileNotFoundError:
        return ModelFolder(versions)
    except OSError as error:
        return ModelFolder(versions, fault=f"cannot be read: {error.strerror}")
    if not re.fullmatch(r"[1-9][0-9]*", text):
        return ModelFolder(versions, fault=f"must hold the number of a version, not {text!r}")
    return ModelFolder(versions, int(text))


def _identity(folder: Path) -> Identity:
    return tuple(_identity_of_file(folder / name) for name in (MANIFEST, *SEALED))


def _identity_of_file(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    # The time of the last change of the inode sees repaired permissions and restored old files, too.
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def write_default(repository: Repository, name: str, version: int | None) -> None:
    """Let a version be the default from now on, for all who read the repository.

    Args:
        repository: Where the model is.
        name: Of a model there.
        version: None for the highest, whichever that is.

    Raises:
        RepositoryError: If the repository cannot be written.
    """
    home = repository.folder / name
    try:
        if version is None:
            (home / DEFAULT).unlink(missing_ok=True)
        else:
            _write(home / DEFAULT, f"{version}\n")
    except OSError as error:
        what = f"write {version} into" if version is not None else "remove"
        raise RepositoryError(
            f"the default of {name} cannot be changed from here ({error.strerror}): {what} {name}/{DEFAULT} where the "
            "repository is writable, and load the model again"
        ) from error


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all: other processes read it at any time."""
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except OSError:
        with suppress(OSError):
            os.unlink(draft)
        raise
