"""Exports a linear classifier of digits that are seen, heard as tones of 10 ms, or both."""

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from softrisk_core.bundle import Bundle
from softrisk_core.manifest import AudioInput, ImageInput, InputSpec, ModelFacts
from softrisk_core.repository import Repository
from softrisk_core.rows import Inputs, take_rows
from softrisk_export.bound import Bound
from softrisk_export.fit import Wanted
from softrisk_export.graph import with_diagnostics
from softrisk_export.seal import seal
from softrisk_export.source import CleanRows, Source

SAMPLES = 80
TRAINING, CALIBRATION = slice(0, 900), slice(900, 1400)

TYPES = {"image": "float[batch, 1, 8, 8] image", "audio": "float[batch, 80] audio"}
SPACES = {"image": "pixels", "audio": "samples"}

GRAPH = """
<ir_version: 8, opset_import: ["": 18]>
linear (INPUTS) => (float[batch, 10] y)
{
  PARTS
  y = Sum (LOGITS)
}
"""
PART = """
  {0}_flat = Flatten ({0})
  {0}_logits = MatMul ({0}_flat, {0}_weights)
"""


def _rows() -> tuple[Inputs, NDArray[np.int64]]:
    digits = load_digits()
    tones = np.sin(0.2 * np.arange(SAMPLES) * np.arange(1, 11)[:, None])
    noise = np.random.default_rng(0).normal(size=(len(digits.target), SAMPLES))
    return {
        "image": (digits.images[:, None] / 16).astype(np.float32),
        "audio": np.clip(0.4 * tones[digits.target] + 0.2 * noise, -1, 1).astype(np.float32),
    }, digits.target


def _specs(optional: bool, longer: Literal["refuse", "crop"]) -> dict[str, InputSpec]:
    image, audio = ImageInput(mode="L", size=(8, 8)), AudioInput(sample_rate=8000, longer=longer)
    return {
        "image": InputSpec(name="image", shape=(-1, 1, 8, 8), domain=(0, 1), image=image, optional=optional),
        "audio": InputSpec(name="audio", shape=(-1, SAMPLES), domain=(-1, 1), audio=audio, optional=optional),
    }


def _flat(inputs: Inputs) -> dict[str, NDArray[np.float32]]:
    return {name: values.reshape(len(values), -1) for name, values in inputs.items()}


def make_senses(
    repository: Path,
    name: str = "senses",
    *,
    inputs: tuple[str, ...] = ("image", "audio"),
    optional: bool = True,
    bounded: bool = True,
    longer: Literal["refuse", "crop"] = "refuse",
) -> Bundle:
    """Make the next version of a model.

    Args:
        repository: Where to.
        name: Of the model.
        inputs: What it gets.
        optional: Whether each of them may be left out.
        bounded: Whether it has radii: certified ones, the exact ones in pixels and samples, and estimated ones.
        longer: What it does with longer recordings.
    """
    every, labels = _rows()
    rows = {each: every[each] for each in inputs}
    joint = np.concatenate(list(_flat(take_rows(rows, TRAINING)).values()), axis=1)
    solution = np.linalg.lstsq(joint, 4 * np.eye(10)[labels[TRAINING]], rcond=0.01)[0].astype(np.float32)
    sizes = [values.shape[1] for values in _flat(rows).values()]
    weights = dict(zip(inputs, np.split(solution, np.cumsum(sizes)[:-1]), strict=True))

    def logits(asked: Inputs) -> NDArray[np.float32]:
        found: NDArray[np.float32] = np.sum([x @ weights[n] for n, x in _flat(asked).items()], axis=0, dtype=np.float32)
        return found

    text = GRAPH.replace("INPUTS", ", ".join(TYPES[each] for each in inputs))
    text = text.replace("PARTS", "".join(map(PART.format, inputs)))
    model = onnx.parser.parse_model(text.replace("LOGITS", ", ".join(f"{each}_logits" for each in inputs)))
    for each, values in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, f"{each}_weights"))
    constants = np.array([np.linalg.norm(w[:, :, None] - w[:, None], axis=0) for w in weights.values()], np.float64)
    bound = Bound({each: SPACES[each] for each in inputs}, {"certified": constants, "estimated": constants / 2})
    source = Source(
        model=with_diagnostics(model, 10),
        logits=logits,
        inputs=tuple(spec for each, spec in _specs(optional, longer).items() if each in inputs),
        classes=tuple(map(str, range(10))),
        facts=ModelFacts(origin="checkpoint", architecture="linear"),
        bound=bound if bounded else None,
    )
    clean = CleanRows(take_rows(rows, CALIBRATION), "digits")
    return seal(Repository(repository), name, source, clean, Wanted("logit_gap:low"), 0.05).bundle
