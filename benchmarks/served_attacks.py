"""Attacks a running service through HTTP alone, once for each level of disclosure: what does each level take away?

    python -m benchmarks.served_attacks models/mnist --checkpoint mnist.pt --out docs/results/disclosure

Attackers have a key of the level and see what it discloses, nothing else; all have the same number of queries. What
they hand over is judged with a key that discloses everything, which no attacker has.
"""

import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import onnxruntime
import torch
import typer
from benchmarks.disclosure_page import Attempt, Record, draw, render, to_rich
from benchmarks.served_flags import service
from benchmarks.served_model import Caller, ServedModel
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from softrisk_attacks.attack import Attack
from softrisk_attacks.black_box import Square
from softrisk_attacks.rays import RayS
from softrisk_attacks.selective_square import SelectiveSquare
from softrisk_attacks.victim import Victim
from softrisk_core.bundle import MODEL, Bundle, load_bundle
from softrisk_core.repository import resolve
from softrisk_evaluation.report import Proportion
from softrisk_evaluation.subject import clean_data
from softrisk_service.disclosure import VISIBLE, Disclosure
from softrisk_service.keys import Key, digest, new_token, write_keys
from softrisk_training.checkpoint import load_checkpoint, tool_versions

BLOCK: Final = 500
"""Clean images asked about at a time."""


@dataclass(frozen=True)
class Attacker:
    """Who attacks, and what they make of the answers.

    Attributes:
        level: What they are shown.
        name: What they do, for people.
        make: The attack, from ε, the number of queries and the model, whose last answer it may look at.
        avoid_flags: Whether a flagged point counts as no success.
    """

    level: Disclosure
    name: str
    make: Callable[[float, int, ServedModel], Attack]
    avoid_flags: bool = False


ATTACKERS: Final = (
    # It asks about the image itself, too.
    Attacker("full", "Square", lambda epsilon, queries, model: Square(epsilon, queries - 1)),
    Attacker(
        "full",
        "Square, then a low score",
        lambda epsilon, queries, model: SelectiveSquare(epsilon, queries, score=model.nonconformity),
    ),
    Attacker("coarse", "RayS", lambda epsilon, queries, model: RayS(epsilon, queries)),
    Attacker("coarse", "RayS around the flag", lambda epsilon, queries, model: RayS(epsilon, queries), True),
    Attacker("none", "RayS", lambda epsilon, queries, model: RayS(epsilon, queries)),
    Attacker("none", "RayS, far behind the border", lambda epsilon, queries, model: RayS(epsilon, queries, True)),
)


@dataclass(frozen=True)
class Images:
    """What is attacked.

    Attributes:
        inputs: Shape (N, C, H, W).
        labels: True classes, shape (N,), all of them what the service says.
    """

    inputs: NDArray[np.float32]
    labels: NDArray[np.int64]


def main(
    bundle: Annotated[
        Path, typer.Argument(help="<repository>/<model>/<version>, or <repository>/<model>: the highest.")
    ],
    checkpoint: Annotated[Path, typer.Option(help="The checkpoint behind the bundle, for its test rows alone.")],
    out: Annotated[Path, typer.Option(help="Folder for README.md, result.json and the picture.")],
    epsilon: Annotated[list[float], typer.Option(help="ℓ∞ radius on pixels in [0, 1]; may be repeated.")] = [0.1, 0.2],  # noqa: B006 - typer wants a list, and copies it
    queries: Annotated[
        list[int], typer.Option(min=2, help="Queries that an attacker has for each image; may be repeated.")
    ] = [30, 100, 300, 1000],  # noqa: B006 - the same
    images: Annotated[
        int, typer.Option(min=1, help="Test images attacked, drawn at random among those that are right.")
    ] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
) -> None:
    """Attack a service by what it discloses, and measure what each level of disclosure takes from attackers."""
    # The tensors are small: more threads would only wait for each other, and for the service's.
    torch.set_num_threads(1)
    loaded = load_bundle(resolve(bundle))
    with ExitStack() as stack:
        callers = _callers(loaded, stack)
        chosen = _right_images(loaded, checkpoint, callers["full"], images, seed)
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        progress = stack.enter_context(Progress(*columns))
        total = len(epsilon) * len(queries) * len(ATTACKERS)
        task = progress.add_task("attacks", total=total)
        attempts = []
        for attempt in _attempts(loaded, callers, chosen, sorted(epsilon), sorted(queries), seed):
            attempts.append(attempt)
            progress.update(task, advance=1, description=f"{attempt.level}: {attempt.attacker}")
    manifest = loaded.manifest
    record = Record(
        command=shlex.join(["python", "-m", "benchmarks.served_attacks", *sys.argv[1:]]),
        date=datetime.now(UTC).date(),
        machine=f"{os.cpu_count()} cores, {platform.machine()}",
        versions={**tool_versions(), "onnxruntime": onnxruntime.__version__},
        model=f"{manifest.name}, version {manifest.version}",
        model_sha256=manifest.files[MODEL].sha256,
        nonconformity=str(manifest.nonconformity),
        alpha=manifest.calibration.alpha,
        calibration_rows=manifest.calibration.n,
        images=len(chosen.labels),
        seed=seed,
        attempts=tuple(attempts),
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(record.model_dump_json(indent=2) + "\n")
    (out / "README.md").write_text(render(record))
    draw(record, out / "disclosure.png")
    Console().print(to_rich(record))


def _callers(bundle: Bundle, stack: ExitStack) -> dict[Disclosure, Caller]:
    """One for each level, of a service that runs until the stack is left."""
    tokens: dict[Disclosure, str] = {level: new_token() for level in VISIBLE}
    keys = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "keys.json"
    write_keys(keys, tuple(Key(name=level, disclosure=level, sha256=digest(tokens[level])) for level in VISIBLE))
    name, version = bundle.manifest.name, bundle.manifest.version
    # Flagged means flagged at the bundle's own level, whatever the environment asks of a service.
    options = ("--keys", str(keys), "--alpha-review", str(bundle.manifest.calibration.alpha))
    url, _, _ = stack.enter_context(service(bundle.folder.parent.parent, *options))
    return {level: stack.enter_context(Caller(url, name, version, token)) for level, token in tokens.items()}


def _right_images(bundle: Bundle, checkpoint: Path, caller: Caller, count: int, seed: int) -> Images:
    """Test images that neither training nor calibration has seen and whose label the service knows."""
    test = clean_data(bundle, load_checkpoint(checkpoint), checkpoint, None)
    order = np.random.default_rng(seed).permutation(len(test.labels))
    inputs, labels = test.inputs[order], test.labels[order]
    found = np.empty(0, dtype=np.int64)
    for start in range(0, len(labels), BLOCK):
        rows = slice(start, start + BLOCK)
        right = caller.ask(inputs[rows])["label"] == labels[rows]
        found = np.concatenate([found, start + np.flatnonzero(right)])[:count]
        if len(found) == count:
            break
    return Images(inputs[found], labels[found])


def _attempts(
    bundle: Bundle,
    callers: dict[Disclosure, Caller],
    images: Images,
    epsilons: list[float],
    budgets: list[int],
    seed: int,
) -> Iterator[Attempt]:
    inputs, labels = torch.from_numpy(images.inputs), torch.from_numpy(images.labels)
    for epsilon in epsilons:
        for attacker in ATTACKERS:
            for queries in budgets:
                model = ServedModel(
                    callers[attacker.level],
                    inputs,
                    labels,
                    classes=len(bundle.manifest.classes),
                    epsilon=epsilon,
                    avoid_flags=attacker.avoid_flags,
                )
                victim = Victim(model, images.inputs[:1])
                model.start()
                attack = attacker.make(epsilon, queries, model)
                points = attack.perturb(victim, inputs, labels, torch.Generator().manual_seed(seed)).points
                answer = callers["full"].ask(points.clamp(*attack.box(inputs)).numpy())
                wrong = answer["label"] != images.labels
                unflagged = wrong & ~answer["flagged"]
                seen = model.first_success[model.first_success > 0].numpy()
                yield Attempt(
                    level=attacker.level,
                    attacker=attacker.name,
                    attack=attack.label,
                    epsilon=epsilon,
                    queries=queries,
                    mean_queries=model.questions / len(labels),
                    mean_queries_to_success=float(seen.mean()) if len(seen) else None,
                    successful=Proportion.where(wrong),
                    unflagged=Proportion.where(unflagged),
                    unflagged_of_successful=Proportion.where(unflagged[wrong]) if wrong.any() else None,
                    median_p_value=float(np.median(answer["p_value"][wrong])) if wrong.any() else None,
                )


if __name__ == "__main__":
    typer.run(main)
