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
from softrisk_core.bundle import (
    CALIBRATION,
    GOLDEN,
    GOLDEN_ROWS,
    MODEL,
    RADIUS,
    SCORE,
    Bundle,
    CalibrationArrays,
    write_golden,
    write_lipschitz,
    write_score,
)
from softrisk_core.conformal import check_alpha
from softrisk_core.errors import CalibrationError
from softrisk_core.groups import Grouping, group_by_class
from softrisk_core.manifest import FEATURES, CalibrationFacts, Manifest
from softrisk_core.presence import keep_present, presence_cases
from softrisk_core.repository import Repository
from softrisk_core.rows import Inputs, count_rows, take_rows
from softrisk_core.score_facts import Nonconformity
from softrisk_core.scores.combined import GatedCombination
from softrisk_export.calibrate import calibration_arrays, calibration_facts
from softrisk_export.find_features import with_features
from softrisk_export.fit import Fitted, Wanted, fit_score
from softrisk_export.graph import opset, with_risk, with_score
from softrisk_export.input_tails import CASE, with_presence, with_radii
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
        CalibrationError: If the rows cannot calibrate this score at this α, or both presence cases and classes would be
            calibrated by themselves.
        ParityError: If the finished graph is not faithful to the source, the reference or the calibration.
        BundleError: If the name is invalid or the repository cannot be written.
    """
    check_shape(rows, source.inputs)
    cases = presence_cases(source.optional)
    if per_class and len(cases) > 1:
        raise CalibrationError(
            "each presence case of this model is calibrated by itself, and classes within them are not: leave out "
            "--per-class"
        )
    check_alpha(alpha, len(rows))  # before a fit that may take minutes
    fitted = fit_score(wanted, source, rows)
    score, left = fitted.score, fitted.rows
    n = len(left)
    try:
        check_alpha(alpha, n)
    except CalibrationError as error:
        if (gone := len(rows) - n) == 0:
            raise
        raise CalibrationError(
            f"{error}; {gone} of the {len(rows)} rows fit {score.name} and calibrate nothing"
        ) from error
    if isinstance(score, GatedCombination) and score.decides:
        check_empty_batch(Runner(source.model), left.input)
    features = fitted.facts.features
    scored = with_score(source.model if features is None else with_features(source.model, features), score)
    ranked = _ranked(scored, score.name, source, left, alpha, per_class)
    arrays, bound, model = ranked.arrays, source.bound, ranked.model
    if bound is not None:
        model = with_radii(model, bound, source.optional)
    radius = None if bound is None else bound.facts
    tolerance = replay_tolerance(source.facts.precision, ranked.outputs["logits"])
    tools = {**source.tools, **_tools()}
    nonconformity = _with_passes(fitted, arrays.scores)
    parts = (nonconformity, ranked.facts, *source.inputs, *(() if radius is None else (radius,)))
    format_version = max(part.format_version for part in parts)
    _describe(model, name, format_version, nonconformity, ranked.facts, tools)

    with repository.new_version(name) as draft:
        onnx.save_model(model, draft.folder / MODEL)
        run = Runner((draft.folder / MODEL).read_bytes())
        golden = _in_turn(left.inputs, n, cases)
        parity = check_parity(run, source.logits, score, golden, source.difference, tolerance, source.radii)
        repeated = _over_cases(run, left.inputs, cases, "checking the finished graph")
        check_calibration(repeated, arrays, ranked.grouping, ranked.keys, alpha)
        manifest = Manifest(
            format_version=format_version,
            name=name,
            version=draft.version,
            created_at=datetime.now(UTC),
            inputs=source.inputs,
            classes=source.classes,
            opset=opset(model),
            model=source.facts,
            nonconformity=nonconformity,
            calibration=ranked.facts,
            radius=radius,
            parity=parity,
            files={},
            tools=tools,
        )
        arrays.write(draft.folder / CALIBRATION)
        write_score(draft.folder / SCORE, score)
        write_lipschitz(draft.folder / RADIUS, {} if bound is None else bound.lipschitz)
        write_golden(draft.folder / GOLDEN, golden, run(golden, manifest.outputs))
        bundle = draft.seal(manifest)
    return Sealed(
        bundle=bundle,
        accuracy=left.accuracy(ranked.outputs["label"][:n], source.classes),
        repeats=n - np.unique(arrays.calibration_rows).size,
    )


@dataclass(frozen=True)
class _Ranked:
    """A graph that ranks, and what it ranks among.

    Attributes:
        model: With the outputs `OUTPUTS`.
        outputs: Of the scored graph on the calibration rows, in each presence case.
        arrays: The calibration.
        facts: About it.
        grouping: Which of its scores belong together.
        keys: By which they do, one for each row of the outputs.
    """

    model: onnx.ModelProto
    outputs: Outputs
    arrays: CalibrationArrays
    facts: CalibrationFacts
    grouping: Grouping
    keys: NDArray[np.int64]


def _ranked(
    scored: onnx.ModelProto, score: str, source: Source, rows: CleanRows, alpha: float, per_class: bool
) -> _Ranked:
    """Calibrate a scored graph: by label, or in each presence case if there are several."""
    n, cases = len(rows), presence_cases(source.optional)
    outputs = _over_cases(Runner(scored), rows.inputs, cases, "scoring clean rows")
    by_label = Grouping.marginal(n, len(source.classes))
    if per_class:
        by_label = group_by_class(outputs["label"], len(source.classes), alpha)
    grouping, keys, key = by_label, outputs["label"], "label"
    if len(cases) > 1:
        scored = with_presence(scored, source.optional)
        grouping, keys, key = Grouping.by_case(n, len(cases)), np.repeat(np.arange(len(cases)), n), CASE
    arrays = calibration_arrays(
        outputs, score, grouping, keys, rows=rows.digests, fit_rows=rows.apart, seen_rows=source.seen_rows
    )
    for case, scores in zip(cases, grouping.split(arrays.scores), strict=False):
        if len(cases) > 1 and not np.ptp(scores) > 0:
            raise CalibrationError(
                f"{score} has the same value on all rows that have nothing but {' and '.join(case)}, so that none like "
                "them could ever be flagged: name only inputs that can be done without with --optional"
            )
    model = with_risk(scored, arrays.scores, grouping, alpha, key)
    return _Ranked(model, outputs, arrays, calibration_facts(arrays, by_label, alpha, rows.data), grouping, keys)


def _in_turn(inputs: Inputs, n: int, cases: tuple[tuple[str, ...], ...]) -> Inputs:
    """The first rows, one in each presence case after the other; repeated where they are fewer than `GOLDEN_ROWS`."""
    positions = np.arange(GOLDEN_ROWS)
    taken = {name: values.copy() for name, values in take_rows(inputs, positions % n).items()}
    for index, case in enumerate(cases):
        for name in taken.keys() - set(case):
            taken[name][positions % len(cases) == index] = 0
    return taken


def _with_passes(fitted: Fitted, scores: NDArray[np.float32]) -> Nonconformity:
    """The facts about a score, with the forward passes that it takes on the calibration rows."""
    probes = fitted.facts.probes
    if probes is None or not isinstance(fitted.score, GatedCombination):
        return fitted.facts
    passes = 1 + len(probes.names) * float(fitted.score.was_probed(scores).mean())
    return fitted.facts.model_copy(update={"probes": probes.model_copy(update={"passes": passes})})


def _over_cases(run: Runner, inputs: Inputs, cases: tuple[tuple[str, ...], ...], doing: str) -> Outputs:
    """The outputs for the same rows in each presence case, one case after the other."""
    console = Console(stderr=True)
    wanted = [name for name in run.outputs if name != FEATURES]
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(doing, total=len(cases) * count_rows(inputs))
        found = [
            run.over(keep_present(inputs, case), wanted, advance=lambda rows: progress.advance(task, rows))
            for case in cases
        ]
    return {name: np.concatenate([outputs[name] for outputs in found]) for name in wanted}


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
