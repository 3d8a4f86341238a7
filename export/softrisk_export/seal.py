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
from softrisk_core.conformal import rank_limit
from softrisk_core.errors import CalibrationError
from softrisk_core.manifest import CalibrationFacts, Manifest, Nonconformity
from softrisk_core.repository import Repository
from softrisk_core.rows import digest_rows
from softrisk_export.calibrate import calibration_arrays, calibration_facts
from softrisk_export.fit import fit_score
from softrisk_export.graph import opset, with_risk, with_score
from softrisk_export.runtime import Outputs, Runner
from softrisk_export.source import CleanRows, Source, check_shape
from softrisk_export.verify import check_calibration, check_parity, replay_tolerance


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


def seal(repository: Repository, name: str, source: Source, rows: CleanRows, score: str, alpha: float) -> Sealed:
    """Calibrate a source on clean rows and add it to a repository as the next version of a model.

    Args:
        repository: Where to.
        name: Name of the model.
        source: The classifier.
        rows: Held-out clean data, of which a part is taken for the fit of a score that has one; n rows are left.
        score: Its name.
        alpha: Default false-alarm rate, in [1/(n + 1), 1).

    Raises:
        CalibrationError: If the rows cannot calibrate this score at this α.
        ParityError: If the finished graph is not faithful to the source, the reference or the calibration.
        BundleError: If the name is invalid or the repository cannot be written.
    """
    check_shape(rows, source.input)
    given = len(rows.inputs)
    fitted, rows = fit_score(score, source, rows)
    try:
        limit = rank_limit(alpha, len(rows.inputs))
    except CalibrationError as error:
        if (gone := given - len(rows.inputs)) == 0:
            raise
        raise CalibrationError(f"{error}; {gone} of the {given} rows fit {score} and calibrate nothing") from error
    scored = with_score(source.model, fitted)
    outputs = _over(Runner(scored), rows.inputs, "scoring clean rows")
    arrays = calibration_arrays(
        outputs, score, rows=digest_rows(rows.inputs), fit_rows=rows.apart, seen_rows=source.seen_rows
    )
    facts = calibration_facts(arrays, alpha, rows.data)
    model = with_risk(scored, arrays.scores, limit)
    tolerance = replay_tolerance(source.facts.precision, outputs["logits"])
    tools = {**source.tools, **_tools()}
    nonconformity = Nonconformity(score=score)
    _describe(model, name, nonconformity, facts, tools)

    with repository.new_version(name) as draft:
        onnx.save_model(model, draft.folder / MODEL)
        run = Runner((draft.folder / MODEL).read_bytes())
        parity = check_parity(run, source.logits, fitted, rows.inputs, source.difference, tolerance)
        check_calibration(_over(run, rows.inputs, "checking the finished graph"), arrays, limit)
        arrays.write(draft.folder / CALIBRATION)
        write_score(draft.folder / SCORE, fitted)
        golden = rows.inputs[np.arange(GOLDEN_ROWS) % len(rows.inputs)]
        write_golden(draft.folder / GOLDEN, {source.input.name: golden}, run(golden))
        bundle = draft.seal(
            Manifest(
                format_version=nonconformity.format_version,
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


def _over(run: Runner, inputs: NDArray[np.float32], doing: str) -> Outputs:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(doing, total=len(inputs))
        return run.over(inputs, advance=lambda rows: progress.advance(task, rows))


def _describe(
    model: onnx.ModelProto, name: str, nonconformity: Nonconformity, facts: CalibrationFacts, tools: Mapping[str, str]
) -> None:
    model.producer_name = "softrisk"
    model.producer_version = __version__
    properties = {
        "softrisk.format_version": str(nonconformity.format_version),
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
