"""What an experiment found, on disk: a page with tables and figures, and the same figures as JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from softrisk_evaluation.tables import Section

PAGE: Final = "README.md"
RESULT: Final = "result.json"


@dataclass(frozen=True)
class Picture:
    """A figure of a page.

    Attributes:
        name: File name, `.png`.
        caption: What it shows and how to read it.
        figure: The drawing.
    """

    name: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Findings:
    """One experiment.

    Attributes:
        title: Of the page.
        question: What was asked, one or two sentences.
        method: How it was measured: data, training, attacks, numbers, reductions; one point each.
        tables: In the order of the page.
        pictures: Below the tables.
        facts: What the tables are made from, for programs: plain values, dataclasses and arrays. What is not finite
            becomes null.
    """

    title: str
    question: str
    method: Sequence[str]
    tables: Sequence[Section]
    pictures: Sequence[Picture] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def publish(findings: Findings, folder: Path, command: str, versions: Mapping[str, str]) -> None:
    """Write page, JSON and figures into a folder, over those of an earlier run.

    Args:
        findings: What was found.
        folder: Made if need be.
        command: That makes it again.
        versions: Of the tools.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for picture in findings.pictures:
        # Without the version of matplotlib, so that the same figures are the same file.
        picture.figure.savefig(folder / picture.name, dpi=110, metadata={"Software": None})
    lines = [f"# {findings.title}", "", findings.question, "", f"`{command}`", ""]
    lines += [f"- {point}" for point in findings.method]
    for table in findings.tables:
        lines += ["", *table.to_markdown()]
    for picture in findings.pictures:
        lines += ["", f"![{picture.caption}]({picture.name})", "", picture.caption]
    lines += ["", "Made with " + ", ".join(f"{tool} {number}" for tool, number in versions.items()) + "."]
    (folder / PAGE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = {"command": command, "versions": dict(versions), **findings.facts}
    (folder / RESULT).write_text(json.dumps(_plain(result), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    # JSON has neither NaN nor infinity, and parsers other than Python's refuse what json.dumps writes for them.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def percent(values: NDArray[np.float64] | Sequence[float], digits: int = 1) -> str:
    """Mean ± standard deviation over seeds (with n − 1), in per cent: `85.2 ± 0.6`; a dash for no values."""
    return plain(np.asarray(values, dtype=np.float64) * 100, digits)


def plain(values: NDArray[np.float64] | Sequence[float], digits: int = 2) -> str:
    """Mean ± standard deviation over seeds (with n − 1); a dash for no values."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        return "–"
    spread = f" ± {array.std(ddof=1):.{digits}f}" if array.size > 1 else ""
    return f"{array.mean():.{digits}f}{spread}"
