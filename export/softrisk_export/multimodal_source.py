"""From a checkpoint of several inputs to a source. Imports torch."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from softrisk_core.manifest import AudioInput, InputSpec, ModelFacts, RadiusKind
from softrisk_export.bound import Bound
from softrisk_export.checkpoint_source import export_logits, logits_of
from softrisk_export.errors import ExportError
from softrisk_export.graph import with_diagnostics
from softrisk_export.source import CleanRows, Source, image_input
from softrisk_training.multimodal.certificate import Lipschitz
from softrisk_training.multimodal.checkpoint import (
    MultimodalCheckpoint,
    build_multimodal_model,
    load_multimodal_checkpoint,
    training_pairs,
)
from softrisk_training.multimodal.modality import Modality


def multimodal_source(path: Path, optional: tuple[str, ...] = ()) -> tuple[Source, CleanRows]:
    """A trained classifier of several inputs, and the pairs to calibrate it on.

    Args:
        path: The checkpoint.
        optional: Names of inputs that may be left out; none for those that the model was trained to do without.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        DataError: If its data cannot be read, or are others now.
        ExportError: If it has no such input.
    """
    checkpoint = load_multimodal_checkpoint(path)
    names = [modality.name for modality in checkpoint.modalities]
    if unknown := set(optional) - set(names):
        raise ExportError(f"the model has the inputs {' and '.join(names)}, and none that is called {unknown.pop()}")
    model = build_multimodal_model(checkpoint)
    shapes = {modality.name: modality.shape for modality in checkpoint.modalities}
    settings = ", ".join(f"{name}={checkpoint.arguments[name]}" for name in ("encoder", "fusion", "width", "features"))
    source = Source(
        model=with_diagnostics(export_logits(model, shapes), len(checkpoint.classes)),
        logits=logits_of(model),
        inputs=tuple(_input(modality, optional or checkpoint.optional) for modality in checkpoint.modalities),
        classes=checkpoint.classes,
        facts=ModelFacts(
            origin="checkpoint",
            architecture=f"multimodal({settings})",
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            loss=checkpoint.method,
            data=checkpoint.data_source,
            clean_accuracy=checkpoint.test_accuracy,
        ),
        seen_rows=checkpoint.digests,
        tools={"torch": str(torch.__version__), "onnxscript": version("onnxscript")},
        bound=_bound(checkpoint.modalities, checkpoint.lipschitz),
    )
    return source, _calibration_pairs(checkpoint, path)


def calibration_pairs(path: Path, seen_rows: NDArray[np.uint64]) -> CleanRows:
    """The calibration pairs of the checkpoint behind a bundle.

    Args:
        path: The checkpoint.
        seen_rows: Digests of the pairs that the bundle's classifier has seen. With another seed the same recordings are
            in other pairs, whose digests would not tell that it has heard them.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        DataError: If its data cannot be read, or are others now.
        ExportError: If it was trained on other pairs.
    """
    checkpoint = load_multimodal_checkpoint(path)
    if not np.array_equal(checkpoint.digests, seen_rows):
        raise ExportError(
            f"{path} was trained on other pairs than the classifier in the bundle, which may have seen the images or "
            "recordings of these: give the checkpoint that it was exported from"
        )
    return _calibration_pairs(checkpoint, path)


def _calibration_pairs(checkpoint: MultimodalCheckpoint, path: Path) -> CleanRows:
    data, rows = training_pairs(checkpoint, path), checkpoint.splits.calibration
    return CleanRows(data.rows(rows), f"{data.source}, calibration pairs", data.labels[rows], data.classes)


def _input(modality: Modality, optional: tuple[str, ...]) -> InputSpec:
    if modality.sample_rate is None:
        channels, height, width = modality.shape
        spec = image_input(modality.name, (channels, height, width))
    else:
        # As the recordings that it was trained on are read.
        audio = AudioInput(sample_rate=modality.sample_rate, longer="crop")
        spec = InputSpec(name=modality.name, shape=(-1, *modality.shape), domain=modality.domain, audio=audio)
    return spec.model_copy(update={"optional": modality.name in optional})


def _bound(modalities: tuple[Modality, ...], lipschitz: Lipschitz) -> Bound | None:
    """None where nothing is known about slopes."""
    known: dict[RadiusKind, NDArray[np.float64]] = {}
    if lipschitz.certified is not None:
        known["certified"] = lipschitz.certified
    if lipschitz.estimated is not None:
        known["estimated"] = lipschitz.estimated
    spaces = {modality.name: modality.space for modality in modalities}
    return Bound(spaces, known, lipschitz.rounding) if known else None
