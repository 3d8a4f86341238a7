"""A model repository: `<repository>/<model>/<version>/`, version a positive integer.

A version appears whole, by one rename, and is never written again.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from softrisk_core.bundle import MANIFEST, RADIUS, SCORE, SEALED, Bundle, file_entry, load_bundle
from softrisk_core.errors import BundleError, ModelNotFoundError
from softrisk_core.manifest import NAME_PATTERN, Manifest


def check_name(name: str) -> str:
    """Return a model name if it is valid.

    Raises:
        BundleError: If it is not letters, digits, `.`, `_` and `-`, starting with a letter or digit.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise BundleError(
            f"{name!r} is not a model name: use letters, digits, '.', '_' and '-', first a letter or digit"
        )
    return name


@dataclass(frozen=True)
class Repository:
    """A folder of models.

    Attributes:
        folder: Holds one folder a model, each of which holds one folder a version.
    """

    folder: Path

    def models(self) -> list[str]:
        """Names of all models that have at least one version, sorted."""
        if not self.folder.is_dir():
            return []
        names = (path.name for path in self.folder.iterdir() if path.is_dir())
        return sorted(name for name in names if re.fullmatch(NAME_PATTERN, name) and self.versions(name))

    def versions(self, name: str) -> list[int]:
        """Versions of a model, ascending; empty if there is no such model."""
        folder = self.folder / name
        if not folder.is_dir():
            return []
        return sorted(int(path.name) for path in folder.iterdir() if re.fullmatch(r"[1-9][0-9]*", path.name))

    def path(self, name: str, version: int | None = None) -> Path:
        """Folder of a version, by default the highest.

        Raises:
            ModelNotFoundError: If there is no such model or version; the message lists what there is.
        """
        versions = self.versions(name)
        if not versions:
            known = ", ".join(self.models()) or "none"
            raise ModelNotFoundError(f"no model {name!r} in {self.folder}; models there: {known}")
        if version is None:
            version = versions[-1]
        if version not in versions:
            raise ModelNotFoundError(f"model {name!r} has no version {version}; versions: {versions}")
        return self.folder / name / str(version)

    @contextmanager
    def new_version(self, name: str) -> Iterator["Draft"]:
        """A draft of the next version: fill its folder, then `seal` it.

        Whatever goes wrong before the seal, the repository stays as it was.

        Raises:
            BundleError: If the name is invalid, or another process took the version meanwhile.
        """
        home = self.folder / check_name(name)
        home.mkdir(parents=True, exist_ok=True)
        version = (self.versions(name) or [0])[-1] + 1
        # Beside its destination, so that the rename stays on one file system; the dot hides it from readers.
        folder = Path(tempfile.mkdtemp(prefix=f".{version}-", dir=home))
        try:
            yield Draft(folder=folder, destination=home / str(version), name=name, version=version)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if not any(home.iterdir()):
                home.rmdir()


def resolve(bundle: Path) -> Path:
    """Folder of a version: the path itself, or, for `<repository>/<model>`, the highest version there."""
    path = bundle.absolute()
    if path.is_dir() and not (path / MANIFEST).exists() and Repository(path.parent).versions(path.name):
        return Repository(path.parent).path(path.name)
    return bundle


@dataclass
class Draft:
    """A version that is being written.

    Attributes:
        folder: Where to write the sealed files and, if there is one, `report/`.
        destination: Where the version will be.
        name: Model name.
        version: Version number.
    """

    folder: Path
    destination: Path
    name: str
    version: int
    sealed: Bundle | None = field(default=None, init=False)

    def seal(self, manifest: Manifest) -> Bundle:
        """Write the manifest with the digests of all files, and let the version appear.

        Args:
            manifest: Complete but for `files`, which is filled in here.

        Raises:
            BundleError: If a file is missing, or the version exists by now.
        """
        missing = [name for name in SEALED if not (self.folder / name).is_file()]
        if missing:
            raise BundleError(f"version {self.version} of {self.name} cannot be sealed without {', '.join(missing)}")
        sealed = (*SEALED, SCORE, RADIUS)
        files = {name: file_entry(self.folder / name) for name in sealed if (self.folder / name).is_file()}
        document = manifest.model_copy(update={"files": files}).model_dump_json(indent=2)
        (self.folder / MANIFEST).write_text(document + "\n", encoding="utf-8")
        load_bundle(self.folder)
        os.chmod(self.folder, 0o755)
        try:
            self.folder.rename(self.destination)
        except OSError as error:
            raise BundleError(f"{self.destination} cannot be written ({error}); run the command again") from error
        self.sealed = load_bundle(self.destination)
        return self.sealed
