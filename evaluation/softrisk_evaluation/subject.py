"""What is evaluated: a bundle, the checkpoint behind it, and test rows that neither has seen.

Everything here refuses or drops; no attack is run on things that do not belong together.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from softrisk_core.bundle import Bundle
from softrisk_core.manifest import Tolerance
from softrisk_evaluation.artifact import Artifact
from softrisk_evaluation.errors import EvaluationError
from softrisk_training.checkpoint import Checkpoint
from softrisk_training.data import ImageData, load_data
from softrisk_training.data.images import class_names

SAMPLE = 256
"""Test rows on which checkpoint and bundle are compared."""


@dataclass(frozen=True)
class CleanData:
    """Clean test inputs.

    Attributes:
        source: What the data are, for people.
        rows: Their row numbers in the data, shape (m,).
        inputs: Shape (m, C, H, W), float32 in [0, 1].
        labels: True classes, shape (m,).
        dropped: Rows left out because the model or the calibration has seen their content.
    """

    source: str
    rows: NDArray[np.int64]
    inputs: NDArray[np.float32]
    labels: NDArray[np.int64]
    dropped: int


def clean_data(bundle: Bundle, checkpoint: Checkpoint, location: str | None) -> CleanData:
    """Test rows that neither training, selection nor calibration has seen.

    Args:
        bundle: Knows the digests of its training and calibration rows.
        checkpoint: Knows its data, its test rows and the digests of its training and selection rows.
        location: Other data for `load_data`, of which the published test rows are taken, or all rows if none are
            published; None for the checkpoint's own test rows.

    Raises:
        EvaluationError: If the data do not fit the model, or no unseen row is left.
        DataError: If the data cannot be read.
    """
    data = load_data(location or checkpoint.data_location)
    _check_fit(bundle, data)
    rows = _candidates(data, None if location else checkpoint)
    calibration = bundle.calibration()
    seen = np.concatenate([calibration.training_rows, calibration.calibration_rows, checkpoint.digests])
    unseen = rows[~np.isin(data.digests(rows), seen)]
    if len(unseen) == 0:
        raise EvaluationError(
            f"all {len(rows)} rows of {data.location} were used for training, selection or calibration; "
            "evaluate on data that the model has not seen: --data"
        )
    return CleanData(
        source=data.source,
        rows=unseen,
        inputs=data.inputs(unseen),
        labels=data.labels[unseen],
        dropped=len(rows) - len(unseen),
    )


def check_same_classifier(
    model: nn.Module, artifact: Artifact, inputs: NDArray[np.float32], tolerance: Tolerance
) -> float:
    """Refuse a checkpoint that is not the one behind the bundle: its gradients would attack another model.

    Args:
        model: The checkpoint's classifier.
        artifact: The bundle's.
        inputs: Test inputs, of which the first `SAMPLE` are compared.
        tolerance: Of the manifest.

    Returns:
        The largest absolute difference of logits.

    Raises:
        EvaluationError: If it is beyond the tolerance.
    """
    sample = inputs[:SAMPLE]
    served = artifact.logits(sample).astype(np.float64)
    with torch.inference_mode():
        trained = model(torch.from_numpy(sample)).numpy().astype(np.float64)
    if trained.shape != served.shape:
        raise EvaluationError(
            f"the checkpoint has {trained.shape[1]} classes and the bundle {served.shape[1]}: they are different "
            "models; give the checkpoint that the bundle was exported from"
        )
    difference = np.abs(trained - served)
    if (difference > tolerance.absolute + tolerance.relative * np.abs(served)).any():
        raise EvaluationError(
            f"checkpoint and bundle are different classifiers: on test inputs their logits differ by up to "
            f"{difference.max():.3g}; give the checkpoint that the bundle was exported from"
        )
    return float(difference.max())


def _check_fit(bundle: Bundle, data: ImageData) -> None:
    if len(bundle.manifest.inputs) != 1:
        names = ", ".join(spec.name for spec in bundle.manifest.inputs)
        raise EvaluationError(f"only models with one image input can be evaluated; this one has {names}")
    spec = bundle.manifest.inputs[0]
    if spec.domain != (0.0, 1.0):
        raise EvaluationError(
            f"the bundle's input {spec.name} has the domain {spec.domain}; attacks need images in [0, 1], with "
            "normalisation inside the model"
        )
    if spec.instance_shape != data.input_shape:
        raise EvaluationError(
            f"the images of {data.location} have shape {data.input_shape}, the bundle expects {spec.instance_shape}"
        )
    classes = bundle.manifest.classes
    # A source without names numbers its classes; then only their number can be checked.
    unnamed = data.classes == class_names(data.labels) and len(data.classes) <= len(classes)
    if data.classes != classes and not unnamed:
        raise EvaluationError(
            f"the classes of {data.location} ({', '.join(data.classes)}) are not those of the bundle "
            f"({', '.join(classes)})"
        )


def _candidates(data: ImageData, checkpoint: Checkpoint | None) -> NDArray[np.int64]:
    if checkpoint is None:
        return np.arange(len(data.labels)) if data.test_rows is None else data.test_rows
    rows = checkpoint.splits.test
    if rows.max() >= len(data.labels):
        raise EvaluationError(
            f"{data.location} has {len(data.labels)} rows, but the checkpoint's test rows go up to {rows.max()}: the "
            "data have changed since the training; give the test data with --data"
        )
    return rows
