"""The one road from a source to a bundle: run, calibrate, complete the graph, check, seal."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper
from rich.console import Console
from rich.progress import Progress

from softrisk_core import __version__
from softrisk_core.bundle import CALIBRATION, GOLDEN, GOLDEN_ROWS, MODEL, SCORE, Bundle, write_golden, write_score
from softrisk_core.conformal import check_alpha
from softrisk_core.errors import CalibrationError
from softrisk_core.groups import Grouping, group_by_class
from softrisk_core.manifest import FEATURES, OUTPUTS, CalibrationFacts, Manifest, Nonconformity
from softrisk_core.repository import Repository
from softrisk_core.rows import digest_rows
from softrisk_core.scores.combined import GatedCombination
from softrisk_export.calibrate import calibration_arrays, calibration_facts
from softrisk_export.find_features import with_features
from softrisk_export.fit import Fitted, Wanted, fit_score
from softrisk_export.graph import opset, with_risk, with_score
from softrisk_export.runtime import Outputs, Runner
from softrisk_export.source import CleanRows, Source, check_shape
from softrisk_export.verify import check_calibration, check_empty_batch, check_parity, replay_tolerance


@dataclass(frozen=True)
class Sealed:
    """What came of an export.

    Attributes:
        bundle: The new version.
        accuracy: On the calibration rows, in [0, 1]; None if their labels are not known.
        repeats: How many calibration rows have the content of another one.
    """

    bundle: Bundle
    accuracy: float | None
    repeats: int


def seal(
    repository: Repository,
    name: str,
    source: Source,
    rows: CleanRows,
    wanted: Wanted,
    alpha: float,
    *,
    per_class: bool = False,
) -> Sealed:
    """Calibrate a source on clean rows and add it to a repository as the next version of a model.

    Args:
        repository: Where to.
        name: Name of the model.
        source: The classifier.
        rows: Held-out clean data, of which a part is taken for the fit of a score that has one; n rows are left.
        wanted: What is ranked.
        alpha: Default false-alarm rate, in [1/(n + 1), 1).
        per_class: Whether predicted classes with enough rows are calibrated by themselves (`group_by_class`).

    Raises:
        CalibrationError: If the rows cannot calibrate this score at this α.
        ParityError: If the finished graph is not faithful to the source, the reference or the calibration.
        BundleError: If the name is invalid or the repository cannot be written.
    """
    check_shape(rows, source.input)
    given = len(rows.inputs)
    check_alpha(alpha, given)  # before a fit that may take minutes
    fitted = fit_score(wanted, source, rows)
    score, rows = fitted.score, fitted.rows
    try:
        check_alpha(alpha, len(rows.inputs))
    except CalibrationError as error:
        if (gone := given - len(rows.inputs)) == 0:
            raise
        raise CalibrationError(f"{error}; {gone} of the {given} rows fit {score.name} and calibrate nothing") from error
    if isinstance(score, GatedCombination) and score.decides:
        check_empty_batch(Runner(source.model), rows.inputs)
    features = fitted.facts.features
    scored = with_score(source.model if features is None else with_features(source.model, features), score)
    outputs = _over(Runner(scored), rows.inputs, "scoring clean rows")
    grouping = Grouping.marginal(len(rows.inputs), len(source.classes))
    if per_class:
        grouping = group_by_class(outputs["label"], len(source.classes), alpha)
    arrays = calibration_arrays(
        outputs, score.name, grouping, rows=digest_rows(rows.inputs), fit_rows=rows.apart, seen_rows=source.seen_rows
    )
    facts = calibration_facts(arrays, grouping, alpha, rows.data)
    model = with_risk(scored, arrays.scores, grouping, alpha)
    tolerance = replay_tolerance(source.facts.precision, outputs["logits"])
    tools = {**source.tools, **_tools()}
    nonconformity = _with_passes(fitted, arrays.scores)
    format_version = max(nonconformity.format_version, facts.format_version)
    _describe(model, name, format_version, nonconformity, facts, tools)

    with repository.new_version(name) as draft:
        onnx.save_model(model, draft.folder / MODEL)
        run = Runner((draft.folder / MODEL).read_bytes())
        parity = check_parity(run, source.logits, score, rows.inputs, source.difference, tolerance)
        check_calibration(_over(run, rows.inputs, "checking the finished graph"), arrays, grouping, alpha)
        arrays.write(draft.folder / CALIBRATION)
        write_score(draft.folder / SCORE, score)
        golden = rows.inputs[np.arange(GOLDEN_ROWS) % len(rows.inputs)]
        write_golden(draft.folder / GOLDEN, {source.input.name: golden}, run(golden, OUTPUTS))
        bundle = draft.seal(
            Manifest(
                format_version=format_version,
                name=name,
                version=draft.version,
                created_at=datetime.now(UTC),
                inputs=(source.input,),
                classes=source.classes,
                opset=opset(model),
                model=source.facts,
                nonconformity=nonconformity,
                calibration=facts,
                parity=parity,
                files={},
                tools=tools,
            )
        )
    return Sealed(
        bundle=bundle,
        accuracy=rows.accuracy(outputs["label"], source.classes),
        repeats=len(rows.inputs) - np.unique(arrays.calibration_rows).size,
    )


def _with_passes(fitted: Fitted, scores: NDArray[np.float32]) -> Nonconformity:
    """The facts about a score, with the forward passes that it takes on the calibration rows."""
    probes = fitted.facts.probes
    if probes is None or not isinstance(fitted.score, GatedCombination):
        return fitted.facts
    passes = 1 + len(probes.names) * float(fitted.score.was_probed(scores).mean())
    return fitted.facts.model_copy(update={"probes": probes.model_copy(update={"passes": passes})})


def _over(run: Runner, inputs: NDArray[np.float32], doing: str) -> Outputs:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(doing, total=len(inputs))
        wanted = [name for name in run.outputs if name != FEATURES]
        return run.over(inputs, wanted, advance=lambda rows: progress.advance(task, rows))


def _describe(
    model: onnx.ModelProto,
    name: str,
    format_version: int,
    nonconformity: Nonconformity,
    facts: CalibrationFacts,
    tools: Mapping[str, str],
) -> None:
    model.producer_name = "softrisk"
    model.producer_version = __version__
    properties = {
        "softrisk.format_version": str(format_version),
        "softrisk.name": name,
        "softrisk.nonconformity": nonconformity.score,
        "softrisk.calibration.id": facts.id,
        "softrisk.calibration.n": str(facts.n),
        "softrisk.calibration.alpha": str(facts.alpha),
        "softrisk.calibration.data": facts.data,
    }
    properties |= {f"softrisk.tools.{tool}": found for tool, found in tools.items()}
    helper.set_model_props(model, properties)


def _tools() -> dict[str, str]:
    return {
        "softrisk": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
