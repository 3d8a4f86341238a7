"""What a loss does for detection: the same scores and attacks on checkpoints that differ in nothing but the loss.

    python -m benchmarks.detection.twins --first drsl-0.pt --first drsl-1.pt --second ce-0.pt --second ce-1.pt

The n-th checkpoints of both belong together: the same seed.
"""

import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from benchmarks.detection.judge import FEWEST, MODES, Detection, counted, share_flagged
from benchmarks.detection.measure import Figures, measure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from scipy.stats import t as student

from softrisk_evaluation.experiments.findings import Findings, plain, publish
from softrisk_evaluation.experiments.study import Study
from softrisk_evaluation.tables import Section, to_rich
from softrisk_export.fit import usual_epsilons
from softrisk_training.checkpoint import Checkpoint, load_checkpoint, tool_versions

app = typer.Typer(add_completion=False, rich_markup_mode=None)

OF_LOGITS = ("logit_gap:low", "logit-profile")
"""Scores of the logits alone, in which a loss shows most."""

Figure = Callable[[Sequence[Detection]], float]


@app.command()
def main(
    first: Annotated[list[Path], typer.Option(help="A checkpoint; may be repeated.")],
    second: Annotated[list[Path], typer.Option(help="Its twin; may be repeated, in the same order.")],
    out: Annotated[Path, typer.Option(help="Folder of page and JSON.")] = Path("results/detection-twins"),
    work: Annotated[Path, typer.Option(help="Folder in which finished pieces are kept.")] = Path("runs"),
    images: Annotated[int, typer.Option(min=100, help="Test images that are attacked.")] = 500,
    jobs: Annotated[int, typer.Option(min=1, help="Processes, each with one thread.")] = 2,
) -> None:
    """Compare detection on twins."""
    if len(first) != len(second):
        raise typer.BadParameter(
            f"each checkpoint needs its twin: {len(first)} of the first, {len(second)} of the second"
        )
    loaded = load_checkpoint(first[0])
    epsilons = usual_epsilons(loaded.input_shape[0])
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        study = Study(work, jobs, progress)
        pairs = [
            tuple(measure(study, each, images, epsilons) for each in pair) for pair in zip(first, second, strict=True)
        ]
    page = findings([(one, other) for one, other in pairs], loaded, load_checkpoint(second[0]), images)
    for table in page.tables[:1]:
        console.print(to_rich(table), "")
    versions = {**tool_versions(), "adversarial-robustness-toolbox": version("adversarial-robustness-toolbox")}
    publish(page, out, shlex.join(["python", "-m", "benchmarks.detection.twins", *sys.argv[1:]]), versions)
    console.print(f"all tables: {out}", soft_wrap=True, highlight=False)


def findings(pairs: Sequence[tuple[Figures, Figures]], first: Checkpoint, second: Checkpoint, images: int) -> Findings:
    """The page.

    Args:
        pairs: Of each seed.
        first: One of the first, for its loss.
        second: One of the second.
        images: That were attacked of each.
    """
    names = tuple(_loss(each) for each in (first, second))
    return Findings(
        title=f"Detection on twins: {names[0]} against {names[1]}, {first.data_source}",
        question="The same network, data, seeds, scores and attacks; only the loss differs. Is more detected?",
        method=(
            f"{len(pairs)} seeds each, {images} test images attacked. Clean accuracy: {names[0]} "
            f"{_accuracy(pair[0] for pair in pairs)}, {names[1]} {_accuracy(pair[1] for pair in pairs)}.",
            "Held-out detection as on the page of a single checkpoint: no score was fitted to the family that it is "
            f"judged by. Means over attacks with {FEWEST} or more successes on both.",
            "± is the standard deviation over seeds. The interval is Student's, of the difference within a seed, 95 %. "
            "Each model's own successes are judged: a model that is harder to fool is judged by fewer of them.",
        ),
        tables=[_overall(pairs, names), _by_attack(pairs, names)],
        facts={
            "losses": names,
            "seeds": [
                [
                    {
                        "accuracy": each.accuracy,
                        "robust": each.robust,
                        "held_out": {
                            mode: [
                                {"attack": d.attack, "successes": d.successes, "auroc": d.auroc, "detected": d.detected}
                                for d in each.held_out[mode].detections
                            ]
                            for mode in MODES
                        },
                    }
                    for each in pair
                ]
                for pair in pairs
            ],
        },
    )


def _loss(checkpoint: Checkpoint) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in checkpoint.loss_settings.items())
    return checkpoint.loss.upper() + (f" ({settings})" if settings else "")


def _accuracy(figures: Iterable[Figures]) -> str:
    return plain([100 * each.accuracy for each in figures], 2) + " %"


def _difference(values: Sequence[tuple[float, float]]) -> str:
    differences = np.array([one - other for one, other in values])
    if differences.size < 2:
        return f"{differences.mean():+.3f}"
    half = student.ppf(0.975, differences.size - 1) * differences.std(ddof=1) / np.sqrt(differences.size)
    return f"{differences.mean():+.3f} ({differences.mean() - half:+.3f} … {differences.mean() + half:+.3f})"


def _shared(pair: tuple[Figures, Figures], score: str) -> tuple[list[Detection], list[Detection]]:
    """Attacks with enough successes on both."""
    one, other = (
        counted(each.held_out[score].detections if score in each.held_out else each.published[score]) for each in pair
    )
    both = {each.attack for each in one} & {each.attack for each in other}
    return [each for each in one if each.attack in both], [each for each in other if each.attack in both]


def _overall(pairs: Sequence[tuple[Figures, Figures]], names: tuple[str, ...]) -> Section:
    figures: dict[str, Figure] = {
        "AUROC, mean": lambda found: float(np.mean([each.auroc for each in found])),
        "AUROC, worst": lambda found: min(each.auroc for each in found),
        "TPR at 5 %, mean": lambda found: float(np.mean([share_flagged(each, 0.05) for each in found])),
        "TPR at 5 %, worst": lambda found: min(share_flagged(each, 0.05) for each in found),
        "TPR at 1 %, mean": lambda found: float(np.mean([share_flagged(each, 0.01) for each in found])),
    }
    rows = []
    judged = [*((mode, f"probes {mode}") for mode in MODES), *((name, name) for name in OF_LOGITS)]
    for score, what in judged:
        for name, figure in figures.items():
            values = [tuple(figure(side) for side in _shared(pair, score)) for pair in pairs]
            rows.append(
                (
                    f"{what}: {name}",
                    *(plain([value[side] for value in values], 3) for side in (0, 1)),
                    _difference([(value[0], value[1]) for value in values]),
                )
            )
    return Section(title="Over all attacks", columns=("figure", *names, "difference"), rows=tuple(rows))


def _by_attack(pairs: Sequence[tuple[Figures, Figures]], names: tuple[str, ...]) -> Section:
    rows = []
    for attack in pairs[0][0].robust:
        found = [
            tuple(next(each for each in side.held_out["always"].detections if each.attack == attack) for side in pair)
            for pair in pairs
        ]
        cells = [attack]
        for side in (0, 1):
            cells.append(plain([100 * pair[side].robust[attack] for pair in pairs], 1))
        if all(each.successes >= FEWEST for pair in found for each in pair):
            cells += [plain([pair[side].auroc for pair in found], 3) for side in (0, 1)]
            cells.append(_difference([(pair[0].auroc, pair[1].auroc) for pair in found]))
        else:
            cells += ["–"] * 3
        rows.append(tuple(cells))
    return Section(
        title="By attack, probes always: still right, %, and AUROC of the successes",
        columns=(
            "attack",
            *(f"{name}: still right" for name in names),
            *(f"{name}: AUROC" for name in names),
            "difference",
        ),
        rows=tuple(rows),
        note=f"A dash where a seed has fewer than {FEWEST} successes.",
    )


if __name__ == "__main__":
    app()
