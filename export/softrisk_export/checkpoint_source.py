"""From a checkpoint to a source. Of this room only this module and `attackers` import torch."""

import importlib
import inspect
import logging
import warnings
from collections.abc import Mapping
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
from softrisk_core.manifest import ModelFacts, Tolerance
from softrisk_core.rows import Inputs
from softrisk_export.graph import with_diagnostics
from softrisk_export.source import CleanRows, Logits, Source, image_input
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
    settings = ", ".join(f"{name}={value}" for name, value in checkpoint.loss_settings.items())

    source = Source(
        model=with_diagnostics(export_logits(model, {INPUT: checkpoint.input_shape}), len(checkpoint.classes)),
        logits=logits_of(model),
        inputs=(image_input(INPUT, checkpoint.input_shape),),
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
        inputs = {source.input.name: sample}
        alike = np.allclose(logits_of(model)(inputs), source.logits(inputs), tolerance.relative, tolerance.absolute)
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


def logits_of(model: nn.Module) -> Logits:
    """A torch module, in eval mode, as a source has it: its arguments are the inputs in their order."""

    def logits(inputs: Inputs) -> NDArray[np.float32]:
        with torch.inference_mode():
            values: NDArray[np.float32] = model(*map(torch.from_numpy, inputs.values())).numpy()
        return values

    return logits


def export_logits(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """A logits-only graph of a torch module, in eval mode, with a dynamic batch axis.

    Args:
        model: float32 (B, …), one argument for each input → logits (B, C).
        shapes: Of one instance of each input, in their order, by the name that the graph gives it.
    """
    # It announces which optional packages it does without.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    # The exporter would import it on the way, and turn a Ctrl-C in that second into a failure of its own.
    importlib.import_module("torch._dynamo")
    # Two rows, because torch.export takes a size of 1 for a constant.
    examples = tuple(torch.zeros(2, *shape) for shape in shapes.values())
    batch = torch.export.Dim("batch")
    dynamic = tuple({0: batch} for _ in examples)
    parameters = inspect.signature(model.forward).parameters.values()
    takes_any_number = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
    with warnings.catch_warnings():
        # Of the exporter's own making, nothing that a user could act on; parity is checked afterwards.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model.eval(),
            examples,
            input_names=list(shapes),
            output_names=["logits"],
            # To torch.export, `*inputs` is a single argument.
            dynamic_shapes=(dynamic,) if takes_any_number else dynamic,
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
        return CleanRows.of(load_images(calibration), INPUT)
    data = training_data(checkpoint, path, "other clean data with --calibration")
    return CleanRows.of(data, INPUT, checkpoint.splits.calibration, part="calibration rows")
