"""Holds the false alarms of versions of a model to the Beta-binomial law, on random splits of clean rows.

    python -m benchmarks.false_alarm_law models/mnist/1 models/mnist/2 --data data/mnist --out docs/results/NAME

Each version scores, by its own `model.onnx`, all clean rows that neither trained, selected nor fitted anything. They
are split at random again and again into calibration and test rows, as if the version were calibrated anew each time.
"""

from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from benchmarks.clean_rows import CleanData
from benchmarks.false_alarm_law_page import Law, Level, Record, draw, render, to_rich
from benchmarks.record import Circumstances, Subject
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from scipy.stats import beta

from softrisk_core.bundle import Bundle, load_bundle
from softrisk_core.groups import Grouping
from softrisk_core.repository import resolve
from softrisk_evaluation.artifact import Artifact
from softrisk_evaluation.errors import EvaluationError
from softrisk_evaluation.false_alarms import Split, realised, resplit

ALPHAS: Final = (0.001, 0.01, 0.05)


def main(
    bundles: Annotated[list[Path], typer.Argument(help="Versions: <repository>/<model>/<version>.")],
    data: Annotated[str, typer.Option(help="Clean data, as softrisk calibrate takes them: those of the checkpoint.")],
    out: Annotated[Path, typer.Option(help="Folder for README.md, result.json and the picture.")],
    splits: Annotated[int, typer.Option(min=1, help="Random splits for each version.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of the splits.")] = 0,
) -> None:
    """Measure false alarms on random splits of clean rows, and compare them with the law."""
    loaded = [load_bundle(resolve(bundle)) for bundle in bundles]
    for bundle in loaded:
        if not bundle.manifest.grouping.is_marginal:
            raise EvaluationError(
                f"{bundle.folder} is calibrated per class, and each group has a law of its own; give a version with "
                "the same score and one calibration for all classes"
            )
    clean = CleanData(data)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, transient=True) as progress:
        laws = tuple(measure(bundle, clean, splits, seed, progress) for bundle in loaded)
    record = Record(circumstances=Circumstances.here("false_alarm_law"), splits=splits, seed=seed, laws=laws)
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(record.model_dump_json(indent=2) + "\n")
    (out / "README.md").write_text(render(record))
    draw(record, out / "false-alarm-law.png")
    Console(width=170).print(to_rich(record))


def measure(bundle: Bundle, clean: CleanData, splits: int, seed: int, progress: Progress) -> Law:
    """Score a version's unseen rows, and split them.

    Raises:
        EvaluationError: If the data hold no clean rows beside those that calibrate the version.
    """
    subject, grouping, calibration = Subject.of(bundle), bundle.manifest.grouping, bundle.calibration()
    rows = clean.unseen(bundle)
    calibrates = np.isin(rows.digests, calibration.calibration_rows)
    if calibrates.all():
        raise EvaluationError(f"{rows.data} are none beside those that calibrate {subject}")
    task = progress.add_task(f"{subject}: scores", total=len(rows))
    answers = Artifact(bundle).answer(rows.input, advance=lambda done: progress.advance(task, done))
    scores = answers.nonconformity
    n = min(grouping.sizes[0], scores.size // 2)
    task = progress.add_task(f"{subject}: splits", total=splits)
    found = resplit(
        scores[:n],
        Grouping.marginal(n, len(grouping.of_key)),
        answers.select(np.arange(n, scores.size)),
        ALPHAS,
        splits=splits,
        seed=seed,
        advance=lambda done: progress.advance(task, done),
    )
    own = realised(answers.select(~calibrates), grouping, ALPHAS)
    return Law(
        subject=subject,
        data=rows.data,
        rows=scores.size,
        equal_scores=scores.size - np.unique(scores).size,
        calibration_rows=n,
        own_calibration_rows=grouping.sizes[0],
        own=tuple(level for level in own if level.guarantee == "marginal"),
        levels=tuple(_level(split, n) for split in found),
    )


def _level(split: Split, n: int) -> Level:
    summary = split.summary
    assert summary.marginal_rank is not None
    assert summary.confident_rank is not None
    confident = summary.confident_rank
    return Level(
        resplits=summary,
        mean_rate=float(split.false_alarms.mean()) / split.law.judged,
        expected_rate=summary.marginal_rank / (n + 1),
        confident_above_in_the_long_run=float(beta.sf(summary.alpha, confident, n + 1 - confident)) if confident else 0,
        alarms=tuple(split.false_alarms.tolist()),
    )


if __name__ == "__main__":
    typer.run(main)
