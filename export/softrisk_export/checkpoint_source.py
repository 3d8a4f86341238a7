"""From a checkpoint to a source. Of this room only this module and `attackers` import torch."""

import importlib
import logging
import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from softrisk_core.errors import CalibrationError
from softrisk_core.manifest import ImageInput, InputSpec, ModelFacts, Tolerance
from softrisk_export.graph import with_diagnostics
from softrisk_export.source import CleanRows, Source
from softrisk_training.checkpoint import Checkpoint, build_model, load_checkpoint, training_data
from softrisk_training.data import absolute_location, load_images

if TYPE_CHECKING:
    from softrisk_export.attackers import Attacker

OPSET: Final = 18
"""The one that torch's exporter writes without a conversion; any runtime since 2023 reads it."""

INPUT: Final = "image"


def checkpoint_source(path: Path, calibration: str | None) -> tuple[Source, CleanRows]:
    """A trained classifier, and the rows to calibrate it on.

    Args:
        path: The checkpoint.
        calibration: Location of clean data. The checkpoint's own data, or None, stand for its calibration rows; of
            other data all rows are taken.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        DataError: If the data cannot be read, or are no longer those that the checkpoint was trained on.
    """
    checkpoint = load_checkpoint(path)
    model = build_model(checkpoint)
    channels, height, width = checkpoint.input_shape
    settings = ", ".join(f"{name}={value}" for name, value in checkpoint.loss_settings.items())

    def logits(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            values: NDArray[np.float32] = model(torch.from_numpy(inputs)).numpy()
        return values

    source = Source(
        model=with_diagnostics(export_logits(model, checkpoint.input_shape), len(checkpoint.classes)),
        logits=logits,
        input=InputSpec(
            name=INPUT,
            shape=(-1, channels, height, width),
            domain=(0.0, 1.0),
            image=ImageInput(mode="L" if channels == 1 else "RGB", size=(height, width)),
        ),
        classes=checkpoint.classes,
        facts=ModelFacts(
            origin="checkpoint",
            architecture=checkpoint.architecture,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            loss=f"{checkpoint.loss}({settings})",
            data=checkpoint.data_source,
            clean_accuracy=checkpoint.test_accuracy,
        ),
        seen_rows=checkpoint.digests,
        tools={"torch": str(torch.__version__), "onnxscript": version("onnxscript")},
        attacker=lambda: gradient_attacker(model),
        mirrors=checkpoint.settings.get("augmentation") == "crop-flip",
    )
    return source, _clean_rows(checkpoint, path, calibration)


def checkpoint_gradients(source: Source, path: Path, sample: NDArray[np.float32], tolerance: Tolerance) -> Source:
    """A source whose attackers have the gradients of a checkpoint.

    Args:
        source: The classifier, without them.
        path: The checkpoint that it comes from.
        sample: Some inputs, on which both must answer alike.
        tolerance: By which they may differ.

    Raises:
        CalibrationError: If they do not.
        CheckpointError: If the checkpoint cannot be read.
    """
    checkpoint = load_checkpoint(path)
    model = build_model(checkpoint).eval()
    alike = (checkpoint.input_shape, len(checkpoint.classes)) == (sample.shape[1:], len(source.classes))
    if alike:
        with torch.inference_mode():
            own = model(torch.from_numpy(sample)).numpy()
        alike = np.allclose(own, source.logits(sample), tolerance.relative, tolerance.absolute)
    if not alike:
        raise CalibrationError(f"{path} is another classifier than the one that is calibrated: give its own checkpoint")
    return replace(
        source,
        attacker=lambda: gradient_attacker(model),
        mirrors=checkpoint.settings.get("augmentation") == "crop-flip",
    )


def gradient_attacker(model: nn.Module) -> "Attacker":
    """Somebody who has the gradients of a classifier."""
    from softrisk_export.attackers import Attacker  # its toolbox takes seconds to import

    return Attacker(model, gradients=True)


def export_logits(model: nn.Module, input_shape: tuple[int, ...]) -> onnx.ModelProto:
    """A logits-only graph of a torch module, in eval mode, with a dynamic batch axis.

    Args:
        model: float32 (B, *input_shape) → logits (B, C).
        input_shape: Of one instance.
    """
    # It announces which optional packages it does without.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    # The exporter would import it on the way, and turn a Ctrl-C in that second into a failure of its own.
    importlib.import_module("torch._dynamo")
    # Two rows, because torch.export takes a size of 1 for a constant.
    example = torch.zeros(2, *input_shape)
    with warnings.catch_warnings():
        # Of the exporter's own making, nothing that a user could act on; parity is checked afterwards.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model.eval(),
            (example,),
            input_names=[INPUT],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None  # None only comes from the older exporter
    graph: onnx.ModelProto = program.model_proto
    return graph


def calibration_rows(path: Path) -> CleanRows:
    """The calibration rows of a checkpoint's own data.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        DataError: If the data cannot be read, or are no longer those that the checkpoint was trained on.
    """
    return _clean_rows(load_checkpoint(path), path, None)


def _clean_rows(checkpoint: Checkpoint, path: Path, calibration: str | None) -> CleanRows:
    own = absolute_location(checkpoint.data_location)
    if calibration is not None and absolute_location(calibration) != own:
        return CleanRows.of(load_images(calibration))
    data = training_data(checkpoint, path, "other clean data with --calibration")
    return CleanRows.of(data, checkpoint.splits.calibration, part="calibration rows")
