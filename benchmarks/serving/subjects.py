"""The models that are served: ONNX files, and for us bundles made from them by `softrisk export`."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from benchmarks.models import MODELS, build
from benchmarks.serving.codecs import Answer, Images
from benchmarks.serving.errors import BenchmarkError
from benchmarks.serving.servers import CORES
from numpy.typing import NDArray

ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Network:
    """A network to be made into a model.

    Attributes:
        name: Short name: S, R.
        graph: The ONNX model.
        shape: Of one image, (C, H, W).
        calibration_rows: n of the p-value; the images are random, as the weights are.
        threads: That onnxruntime is given in the peers.
    """

    name: str
    graph: onnx.ModelProto
    shape: tuple[int, int, int]
    calibration_rows: int
    threads: int = 1


@dataclass(frozen=True)
class Subject:
    """A model as files.

    Attributes:
        network: What it was made from.
        onnx_file: The plain network, which peers serve.
        repository: Holds our bundle of it as `model`, version 1.
    """

    network: Network
    onnx_file: Path
    repository: Path

    @property
    def name(self) -> str:
        """Short name."""
        return self.network.name

    @property
    def bundle_file(self) -> Path:
        """The graph with diagnostics and p-value, which we serve."""
        return self.repository / "model" / "1" / "model.onnx"

    def images(self, count: int) -> Images:
        """Images to send."""
        return random_images(self.network.shape, count, seed=7)

    def reference(self, images: Images) -> Answer:
        """What is expected for them."""
        return reference(self.bundle_file, images)


def standard_network(name: str) -> Network:
    """S, the small CNN, or R, the ResNet-18."""
    rows, threads = {"S": (10_000, 1), "R": (2_000, CORES)}[name]
    return Network(name, build(name), MODELS[name][0], rows, threads)


def prepare(network: Network, cache: Path) -> Subject:
    """Write the ONNX file and export the bundle, unless the same have been made by the same code before.

    Raises:
        BenchmarkError: If the export fails.
    """
    content = network.graph.SerializeToString()
    digest = hashlib.sha256(content + str(network.calibration_rows).encode())
    for source in sorted((*(ROOT / "export").rglob("*.py"), *(ROOT / "core").rglob("*.py"))):
        digest.update(source.read_bytes())
    folder = cache / "models" / f"{network.name}-{digest.hexdigest()[:16]}"
    subject = Subject(network, folder / "model.onnx", folder / "repository")
    if subject.bundle_file.exists():
        return subject
    shutil.rmtree(folder, ignore_errors=True)
    export(network, subject.repository, "model", keep=subject.onnx_file)
    return subject


def export(network: Network, repository: Path, name: str, keep: Path | None = None) -> None:
    """Add a version to a repository with the command line.

    Args:
        network: The network.
        repository: Where to.
        name: The model's name there.
        keep: Where the ONNX file stays that the bundle is made from.

    Raises:
        BenchmarkError: If it fails.
    """
    program = Path(sys.executable).with_name("softrisk")
    with tempfile.TemporaryDirectory() as folder:
        source, calibration = Path(folder, "network.onnx"), Path(folder, "calibration.npz")
        source.write_bytes(network.graph.SerializeToString())
        np.savez(calibration, images=random_images(network.shape, network.calibration_rows, seed=1))
        options = ["--calibration", str(calibration), "--out", str(repository), "--name", name]
        done = subprocess.run([program, "export", str(source), *options], capture_output=True, text=True)
        if done.returncode:
            raise BenchmarkError(f"softrisk export failed: {(done.stderr or done.stdout).strip()}")
        if keep is not None:
            shutil.move(source, keep)


def random_images(shape: tuple[int, int, int], count: int, seed: int) -> Images:
    """Images of random pixels in 256 levels, each of another brightness, so that no two answers are alike."""
    levels = np.random.default_rng(seed).integers(0, 256, (count, *shape))
    brightness = np.linspace(0.2, 1, count)[:, None, None, None]
    return (np.round(levels * brightness) / 255).astype(np.float32)


def reference(bundle_file: Path, images: Images) -> Answer:
    """What onnxruntime alone makes of images, one by one: all outputs of a bundle."""
    session = onnxruntime.InferenceSession(str(bundle_file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    rows: list[list[NDArray[Any]]] = [session.run(names, {"input": image[None]}) for image in images]
    return {name: np.concatenate([row[i] for row in rows]) for i, name in enumerate(names)}
