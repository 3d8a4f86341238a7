"""What the artifact says about images, and how that compares with clean data."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from torch import nn

from softrisk_core.bundle import Bundle
from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_core.manifest import Manifest
from softrisk_core.scores.combined import GatedCombination
from softrisk_evaluation.artifact import Artifact
from softrisk_evaluation.directions import DIRECTIONS
from softrisk_evaluation.examples import View
from softrisk_evaluation.explain.reference import Reading, Reference
from softrisk_evaluation.explain.request import Request
from softrisk_evaluation.explain.saliency import Map, gradient_map, occlusion_map, patches
from softrisk_evaluation.logit_pictures.shape import largest
from softrisk_evaluation.subject import check_same_classifier

_OUTPUTS = ("logits", "probabilities", "label", "rank", "nonconformity", "flagged", *DIAGNOSTICS)


@dataclass(frozen=True)
class Probed:
    """A changed image and what the classifier says about it.

    Attributes:
        name: Of the probe.
        image: Shape (C, H, W), in [0, 1].
        label: Its most likely class.
        confidence: Of that class, in [0, 1].
    """

    name: str
    image: NDArray[np.float32]
    label: int
    confidence: float


@dataclass(frozen=True)
class Explanation:
    """All that is shown of one image.

    Attributes:
        request: The image.
        view: The artifact's answer.
        runner_up: Second most likely class.
        nonconformity: The score behind the rank.
        flagged: Whether the artifact flags it at the bundle's α.
        readings: A diagnostic each, in their usual order.
        probes: Of the bundle; empty where it declares none.
        was_probed: Whether the score looked at the probes; False where there are none.
        saliency: Of the label against the runner-up.
    """

    request: Request
    view: View
    runner_up: int
    nonconformity: float
    flagged: bool
    readings: tuple[Reading, ...]
    probes: tuple[Probed, ...]
    was_probed: bool
    saliency: Map

    @property
    def confidence(self) -> float:
        """Probability of the label, in (0, 1]."""
        return float(self.view.probabilities[self.view.label])


def what_flags(manifest: Manifest) -> str:
    """What decides about the flag, where it is not a diagnostic that is shown."""
    if manifest.nonconformity.score in ("combined", "probed"):
        return (
            "The flag goes by the score alone, which also weighs how rough the image is: it may flag what every "
            "diagnostic takes for ordinary."
        )
    return f"The flag goes by the score alone: {manifest.nonconformity}, large is strange."


def references(bundle: Bundle) -> dict[str, Reference]:
    """What is usual, by diagnostic."""
    return {name: Reference(*histogram) for name, histogram in bundle.calibration().histograms.items()}


def explain(
    bundle: Bundle, model: nn.Module | None, requests: Sequence[Request], progress: Progress
) -> list[Explanation]:
    """Ask the artifact about images, and take its answers apart.

    Args:
        bundle: With an image input.
        model: The same classifier with gradients; without it patches are covered to see what decides.
        requests: The images.
        progress: Gets a task.

    Raises:
        EvaluationError: If the model is another classifier than the bundle's.
        ExportError: If onnxruntime does not run the graph.
    """
    artifact, usual = Artifact(bundle), references(bundle)
    inputs = np.stack([request.pixels for request in requests])
    if model is not None:
        check_same_classifier(model, artifact, inputs, bundle.manifest.parity.tolerance)
    outputs = artifact.outputs(inputs, _OUTPUTS)
    labels, runner_ups, _ = largest(outputs["logits"])
    score = bundle.score()
    was_probed = np.zeros(len(inputs), np.bool_)
    if isinstance(score, GatedCombination):
        was_probed = score.was_probed(outputs["nonconformity"])
    probes = [(probe.name, probe(inputs)) for probe in score.probes]
    answers = [(name, images, artifact.outputs(images, ("probabilities",))["probabilities"]) for name, images in probes]
    each_takes = 1 if model is not None else len(list(patches(*inputs.shape[2:])))
    task = progress.add_task("what decides", total=len(inputs) * each_takes)
    found = []
    for row, (request, label, runner_up) in enumerate(zip(requests, labels, runner_ups, strict=True)):
        if model is None:
            saliency = occlusion_map(
                artifact.logits, request.pixels, label, runner_up, lambda done: progress.advance(task, done)
            )
        else:
            saliency = gradient_map(model, request.pixels, label, runner_up)
            progress.advance(task)
        found.append(
            Explanation(
                request=request,
                view=View(
                    request.pixels,
                    int(outputs["label"][row]),
                    int(outputs["rank"][row]),
                    outputs["probabilities"][row].astype(np.float64),
                ),
                runner_up=int(runner_up),
                nonconformity=float(outputs["nonconformity"][row]),
                flagged=bool(outputs["flagged"][row]),
                readings=tuple(_reading(name, float(outputs[name][row]), usual[name]) for name in DIAGNOSTICS),
                probes=tuple(
                    Probed(name, images[row], int(shares[row].argmax()), float(shares[row].max()))
                    for name, images, shares in answers
                ),
                was_probed=bool(was_probed[row]),
                saliency=saliency,
            )
        )
    return found


def _reading(name: str, value: float, usual: Reference) -> Reading:
    return Reading(name, value, DIRECTIONS[name].strange, usual.percentile(value))
