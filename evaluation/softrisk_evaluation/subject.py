"""What is evaluated: a bundle, the checkpoint behind it if there is one, and test rows that neither has seen.

Everything here refuses or drops; no attack is run on things that do not belong together.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from softrisk_core.bundle import Bundle
from softrisk_core.manifest import Tolerance
from softrisk_core.scores.score import FeatureScore, Score
from softrisk_evaluation.artifact import Artifact
from softrisk_evaluation.differentiable import last_features
from softrisk_evaluation.errors import EvaluationError
from softrisk_training.checkpoint import Checkpoint, training_data
from softrisk_training.data import ImageData, load_data
from softrisk_training.data.images import same_classes

SAMPLE = 256
"""Test rows on which checkpoint and bundle are compared."""

_FEATURES = 0.1
"""Standard deviations of the score by which features that were rounded to int8 may move it, in the median."""


@dataclass(frozen=True)
class CleanData:
    """Clean test inputs.

    Attributes:
        source: What the data are, for people.
        rows: Their row numbers in the data, shape (m,).
        inputs: Shape (m, C, H, W), float32 in [0, 1].
        labels: True classes, shape (m,).
        dropped: Rows left out because the model or the calibration has seen their content.
        training_known: Whether it is known which rows the model has seen.
        selection: Inputs of selection rows, on which published scores are fitted; None if the data are others than the
            checkpoint's own.
    """

    source: str
    rows: NDArray[np.int64]
    inputs: NDArray[np.float32]
    labels: NDArray[np.int64]
    dropped: int
    training_known: bool
    selection: NDArray[np.float32] | None


def clean_data(
    bundle: Bundle, checkpoint: Checkpoint | None, checkpoint_path: Path | None, location: str | None
) -> CleanData:
    """Test rows that neither training, selection nor calibration has seen.

    Args:
        bundle: Knows the digests of its training and calibration rows.
        checkpoint: Knows its data, its test rows and the digests of its training and selection rows.
        checkpoint_path: Where it is, for messages.
        location: Other data for `load_data`, of which the published test rows are taken, or all rows if none are
            published; None for the checkpoint's own test rows.

    Raises:
        EvaluationError: If there are no data, they do not fit the model, or no unseen row is left.
        DataError: If the data cannot be read.
    """
    data, rows = candidate_rows(checkpoint, checkpoint_path, location)
    _check_fit(bundle, data)
    calibration = bundle.calibration()
    trained = calibration.training_rows
    if checkpoint is not None:
        trained = np.concatenate([trained, checkpoint.digests])
    used = np.concatenate([trained, calibration.calibration_rows, calibration.fit_rows])
    unseen = rows[~np.isin(data.digests(rows), used)]
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
        training_known=trained.size > 0,
        selection=data.inputs(checkpoint.splits.selection) if checkpoint is not None and location is None else None,
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


def check_same_features(score: Score, model: nn.Module, artifact: Artifact, inputs: NDArray[np.float32]) -> None:
    """Refuse to attack a score of features by others than those that it reads.

    Args:
        score: Of the bundle; nothing is to be said of one that reads no features.
        model: The checkpoint's classifier, whose last layer's features an attack goes by.
        artifact: The bundle's.
        inputs: Test inputs, of which the first `SAMPLE` are compared.

    Raises:
        EvaluationError: If they are others.
    """
    if not isinstance(score, FeatureScore):
        return
    sample = inputs[:SAMPLE]
    with torch.inference_mode():
        features = last_features(model, torch.from_numpy(sample)).numpy()
    served = artifact.answer(sample).nonconformity
    size = score.size
    # A twin in int8 rounds its features; those of another layer are far off.
    if features.shape[1] != size or np.median(np.abs(score(features) - served)) > _FEATURES * served.std():
        raise EvaluationError(
            f"{score.name} reads other features in the bundle than what the checkpoint's last layer reads, and only "
            "those have a gradient here: leave out --adaptive"
        )


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
    if not same_classes(data.classes, classes):
        raise EvaluationError(
            f"the classes of {data.location} ({', '.join(data.classes)}) are not those of the bundle "
            f"({', '.join(classes)}); name them with --classes when you export the ONNX file, or evaluate on data with "
            "the bundle's classes"
        )


def candidate_rows(
    checkpoint: Checkpoint | None, checkpoint_path: Path | None, location: str | None
) -> tuple[ImageData, NDArray[np.int64]]:
    """Data, and which of its rows are for testing; arguments and errors as of `clean_data`."""
    if location is not None:
        data = load_data(location)
        return data, np.arange(len(data.labels)) if data.test_rows is None else data.test_rows
    if checkpoint is None or checkpoint_path is None:
        raise EvaluationError(
            "without a checkpoint there are no test rows: name labelled test data with --data, or the checkpoint that "
            "the bundle was exported from with --checkpoint"
        )
    return training_data(checkpoint, checkpoint_path, "test data with --data"), checkpoint.splits.test
