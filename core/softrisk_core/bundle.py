"""The bundle: a folder that carries one version of a model, readable without our code, immutable once it is there.

```
manifest.json      see `softrisk_core.manifest`
model.onnx         inputs → `OUTPUTS`
calibration.npz    see `CalibrationArrays`
score.npz          what was fitted for the score; only where something was
radius.npz         Lipschitz constants behind the radii; only where there are radii
golden.npz         `GOLDEN_ROWS` inputs `input:<name>` with their outputs `output:<name>`
report/            the evaluation; added later, with digests of its own
```
"""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from softrisk_core import __version__
from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_core.errors import BundleError
from softrisk_core.manifest import FORMAT, FORMAT_VERSION, FileEntry, Manifest, RadiusKind
from softrisk_core.scores.catalogue import find_score
from softrisk_core.scores.score import Score

MANIFEST: Final = "manifest.json"
MODEL: Final = "model.onnx"
CALIBRATION: Final = "calibration.npz"
SCORE: Final = "score.npz"
RADIUS: Final = "radius.npz"
GOLDEN: Final = "golden.npz"
REPORT: Final = "report"
SEALED: Final = (MODEL, CALIBRATION, GOLDEN)
"""Files of every bundle. `SCORE` and `RADIUS` are sealed, too, where there are some."""

GOLDEN_ROWS: Final = 64


@dataclass(frozen=True)
class CalibrationArrays:
    """`calibration.npz`.

    Attributes:
        scores: Shape (n,), float32: nonconformity of held-out clean data by the exported graph, ascending. Where there
            are groups: one group after another, in the order of the manifest, ascending within each. Where inputs are
            optional: shape (G · n,), one presence case after another likewise.
        histograms: For each diagnostic its (edges (k + 1,), counts (k,)) on the same data, with all inputs.
        training_rows: Digests (`softrisk_core.rows`) of the rows that the model has seen, if known; else empty.
        calibration_rows: Digests of the calibration rows, shape (n,).
        fit_rows: Digests of rows that a score or a twin was fitted on, and that therefore calibrate nothing; empty
            where there are none, and in bundles from before they were kept.
    """

    scores: NDArray[np.float32]
    histograms: Mapping[str, tuple[NDArray[np.float64], NDArray[np.int64]]]
    training_rows: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    calibration_rows: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    fit_rows: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))

    @property
    def id(self) -> str:
        """Identity of the calibration: 16 hexadecimal digits of the SHA-256 of the scores."""
        return sha256(self.scores.astype("<f4").tobytes()).hexdigest()[:16]

    def write(self, path: Path) -> None:
        """Write to an `.npz` file."""
        arrays: dict[str, NDArray[Any]] = {
            "scores": self.scores,
            "training_rows": self.training_rows,
            "calibration_rows": self.calibration_rows,
            **({"fit_rows": self.fit_rows} if self.fit_rows.size else {}),
        }
        for name, (edges, counts) in self.histograms.items():
            arrays[f"edges:{name}"] = edges
            arrays[f"counts:{name}"] = counts
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose manifest has been read.

    Attributes:
        folder: The version's folder.
        manifest: Its manifest.
    """

    folder: Path
    manifest: Manifest

    @property
    def model_path(self) -> Path:
        """The ONNX file."""
        return self.folder / MODEL

    def calibration(self) -> CalibrationArrays:
        """Read `calibration.npz`.

        Raises:
            BundleError: If it is missing, damaged, or not the one that the manifest describes.
        """
        arrays = _read_arrays(self.folder / CALIBRATION)
        try:
            calibration = CalibrationArrays(
                scores=arrays["scores"],
                histograms={name: (arrays[f"edges:{name}"], arrays[f"counts:{name}"]) for name in DIAGNOSTICS},
                training_rows=arrays["training_rows"],
                calibration_rows=arrays["calibration_rows"],
                fit_rows=arrays.get("fit_rows", np.empty(0, np.uint64)),
            )
        except KeyError as error:
            raise BundleError(f"{self.folder / CALIBRATION}: the array {error} is missing") from error
        facts = self.manifest.calibration
        if calibration.scores.shape != (facts.n * len(self.manifest.cases),) or calibration.id != facts.id:
            raise BundleError(f"{self.folder / CALIBRATION}: the scores are not those of calibration {facts.id}")
        return calibration

    def score(self) -> Score:
        """The float64 reference of the score, with what was fitted for it.

        Raises:
            BundleError: If that is missing or damaged.
        """
        nonconformity = self.manifest.nonconformity
        recipe = find_score(nonconformity.score)
        arrays = {} if recipe.needs == "nothing" else _read_arrays(self.folder / SCORE)
        probes = () if nonconformity.probes is None else nonconformity.probes.names
        try:
            return recipe.load(arrays, probes)
        except KeyError as error:
            raise BundleError(f"{self.folder / SCORE}: the array {error} is missing") from error

    def lipschitz(self) -> dict[RadiusKind, NDArray[np.float64]]:
        """The Lipschitz constants behind the radii, (inputs, C, C) for each kind (`softrisk_core.radius`); may be none.

        Raises:
            BundleError: If they are missing or damaged.
        """
        if self.manifest.radius is None:
            return {}
        arrays = _read_arrays(self.folder / RADIUS)
        try:
            return {kind: arrays[kind] for kind in self.manifest.radius.kinds}
        except KeyError as error:
            raise BundleError(f"{self.folder / RADIUS}: the array {error} is missing") from error

    def golden(self) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        """Inputs and outputs of `golden.npz`, by name, `GOLDEN_ROWS` rows each.

        Raises:
            BundleError: If the file is missing or damaged.
        """
        arrays = _read_arrays(self.folder / GOLDEN)
        inputs = {key.removeprefix("input:"): a for key, a in arrays.items() if key.startswith("input:")}
        outputs = {key.removeprefix("output:"): a for key, a in arrays.items() if key.startswith("output:")}
        return inputs, outputs


def write_golden(path: Path, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> None:
    """Write `golden.npz`."""
    arrays = {f"input:{name}": array for name, array in inputs.items()}
    arrays |= {f"output:{name}": array for name, array in outputs.items()}
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def write_score(path: Path, score: Score) -> None:
    """Write `score.npz`, if anything was fitted for the score."""
    if score.arrays:
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **score.arrays)


def write_lipschitz(path: Path, lipschitz: Mapping[RadiusKind, NDArray[np.float64]]) -> None:
    """Write `radius.npz`, if there are radii."""
    if lipschitz:
        arrays: dict[str, NDArray[Any]] = {str(kind): constants for kind, constants in lipschitz.items()}
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)


def file_entry(path: Path) -> FileEntry:
    """Digest and size of a file."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return FileEntry(sha256=digest.hexdigest(), bytes=path.stat().st_size)


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle's manifest and check every sealed file against it.

    Args:
        folder: `<repository>/<model>/<version>`.

    Raises:
        BundleError: If the folder is missing, foreign, of a newer format, incomplete, truncated or altered; the
            message names the file and what is wrong with it.
    """
    manifest = _read_manifest(folder)
    fitted = find_score(manifest.nonconformity.score).needs != "nothing"
    for name in (*SEALED, *((SCORE,) if fitted else ()), *((RADIUS,) if manifest.radius is not None else ())):
        if name not in manifest.files:
            raise BundleError(f"{folder / MANIFEST}: the entry of {name} is missing")
    for name, entry in manifest.files.items():
        _check_file(folder, name, entry)
    return Bundle(folder=folder, manifest=manifest)


def _read_manifest(folder: Path) -> Manifest:
    if not folder.is_dir():
        raise BundleError(f"{folder} is not a folder; a bundle is <repository>/<model>/<version>")
    path = folder / MANIFEST
    if not path.is_file():
        versions = sorted(str(p.parent.relative_to(folder)) for p in folder.glob(f"*/{MANIFEST}"))
        versions += sorted(str(p.parent.relative_to(folder)) for p in folder.glob(f"*/*/{MANIFEST}"))
        hint = f"; it holds {', '.join(versions)}: name one of these" if versions else ""
        raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST}{hint}")
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BundleError(f"{path} is not the manifest of a softrisk bundle: its format is not '{FORMAT}'")
    version = document.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise BundleError(f"{path}: format_version must be a positive integer, got {version!r}")
    if version > FORMAT_VERSION:
        tools = document.get("tools")
        writer = tools.get("softrisk", "a newer version") if isinstance(tools, dict) else "a newer version"
        raise BundleError(
            f"{path} has format {version}, written by softrisk {writer}; softrisk {__version__} reads up to format "
            f"{FORMAT_VERSION}: upgrade softrisk, or export the model again with this version"
        )
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise BundleError(f"{path}: {where}: {first['msg']}") from error


def _check_file(folder: Path, name: str, entry: FileEntry) -> None:
    path = folder / name
    if path.parent != folder:
        raise BundleError(f"{folder / MANIFEST}: {name!r} is not the name of a file in the bundle")
    if not path.is_file():
        raise BundleError(f"{folder} is incomplete: {name} is missing")
    size = path.stat().st_size
    if size < entry.bytes:
        raise BundleError(f"{path} is truncated: {size} of {entry.bytes} bytes")
    if file_entry(path) != entry:
        raise BundleError(f"{path} was changed after it was sealed: its SHA-256 is not the one in {MANIFEST}")


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            return dict(archive)
    except FileNotFoundError as error:
        raise BundleError(f"{path} is missing") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path} is damaged: {error}") from error
