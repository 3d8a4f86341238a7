"""An evaluation on disk: `report/` beside the sealed files of a bundle, or a folder of the user's choice.

```
report.json     see `softrisk_evaluation.report`
report.md       the same for people
report.html     the same as a page for a browser, with pictures; one file that needs no other
examples.npz    what the artifact said about every input, so that anyone can recompute the figures
example-*.npy   the inputs that the page shows, clean and attacked, for `softrisk explain`
*.png           figures
digests.json    SHA-256 and size of every file above
```
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from softrisk_core.bundle import file_entry
from softrisk_evaluation.artifact import Answers
from softrisk_evaluation.errors import EvaluationError
from softrisk_evaluation.evaluate import Evaluation
from softrisk_evaluation.figures import draw_figures
from softrisk_evaluation.page import to_html
from softrisk_evaluation.tables import to_markdown

REPORT: Final = "report.json"
PAGE: Final = "report.html"
DIGESTS: Final = "digests.json"


def check_destination(folder: Path) -> None:
    """Refuse to write where something else is, before the work starts.

    Raises:
        EvaluationError: If the folder exists and is not an earlier report, or cannot be made.
    """
    if folder.exists() and not (folder / DIGESTS).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise EvaluationError(f"{folder} exists and is not a report: name a new folder with --out")
    home = folder.absolute().parent
    existing = next(path for path in (home, *home.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise EvaluationError(f"{folder} cannot be written: name another folder with --out")


def publish(evaluation: Evaluation, folder: Path) -> None:
    """Write the report; it appears whole, in place of an earlier one.

    Args:
        evaluation: What was found.
        folder: Accepted by `check_destination`.
    """
    home = folder.absolute().parent
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=home) as scratch:
        draft = Path(scratch) / "new"
        draft.mkdir()
        _write(evaluation, draft)
        if folder.exists():
            folder.rename(Path(scratch) / "old")
        draft.rename(folder)


def _write(evaluation: Evaluation, folder: Path) -> None:
    figures = draw_figures(evaluation, folder)
    with (folder / "examples.npz").open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **_examples(evaluation))
    for number, example in enumerate(evaluation.examples.shown, start=1):
        # Not as PNG: rounded to 256 levels, an attack that has just reached its goal may be undone.
        for state, view in (("clean", example.clean), ("attacked", example.attacked)):
            if view is not None:
                np.save(folder / f"example-{number}-{state}.npy", view.image, allow_pickle=False)
    (folder / REPORT).write_text(evaluation.report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(to_markdown(evaluation.report, figures), encoding="utf-8")
    (folder / PAGE).write_text(to_html(evaluation, folder, figures), encoding="utf-8")
    digests = {path.name: file_entry(path).model_dump() for path in sorted(folder.iterdir())}
    (folder / DIGESTS).write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")


def _examples(evaluation: Evaluation) -> dict[str, NDArray[Any]]:
    """`row`, `truth` of all m test rows; `attacked`: which of them were; then answers as `<input>:<output>`."""
    arrays: dict[str, NDArray[Any]] = {
        "row": evaluation.test.rows,
        "truth": evaluation.test.labels,
        "attacked": evaluation.chosen,
        **_arrays("clean", evaluation.clean),
    }
    for each in (*evaluation.attacked, *evaluation.knowing):
        arrays |= _arrays(each.attack.label, each.answers)
    return arrays


def _arrays(name: str, answers: Answers) -> dict[str, NDArray[Any]]:
    columns: dict[str, NDArray[Any]] = {
        "label": answers.label,
        "rank": answers.rank,
        "nonconformity": answers.nonconformity,
        "runner_up": answers.runner_up,
        "profile": answers.profile,
        **answers.diagnostics,
        # As precise as everything else here, all of which the graph computed in float32, and half as large.
        **{score: values.astype(np.float32) for score, values in answers.published.items()},
    }
    return {f"{name}:{column}": values for column, values in columns.items()}
