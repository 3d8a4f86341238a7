"""What `benchmarks.served_attacks` found: the record, a table, a picture and a page."""

from datetime import date
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict
from rich.box import SIMPLE_HEAD
from rich.table import Table

from softrisk_evaluation.report import Proportion
from softrisk_service.disclosure import VISIBLE, Disclosure

HEADINGS: Final = (
    "ε",
    "disclosure",
    "attacker",
    "queries spent",
    "to first success",
    "successful",
    "successful and unflagged",
    "unflagged of successful",
    "median p-value",
)
_COLOURS: Final[dict[Disclosure, str]] = {"full": "#b3312c", "coarse": "#c98a1b", "none": "#1f6f8b"}
_DASHES: Final = ("--", "-")


class Attempt(BaseModel):
    """One attacker with one number of queries at one radius."""

    model_config = ConfigDict(frozen=True)

    level: Disclosure
    attacker: str
    attack: str
    """With its settings."""
    epsilon: float
    queries: int
    """That it had for each image."""
    mean_queries: float
    """That it spent on an image."""
    mean_queries_to_success: float | None
    """Until it saw its first success inside the ball, over the images where it did."""
    successful: Proportion
    """Handed-over images with a wrong label, of all attacked."""
    unflagged: Proportion
    """Those that are not flagged either, of all attacked."""
    unflagged_of_successful: Proportion | None
    median_p_value: float | None
    """Of the successful."""


class Record(BaseModel):
    """Everything that was measured, and how."""

    model_config = ConfigDict(frozen=True)

    command: str
    date: date
    machine: str
    versions: dict[str, str]
    model: str
    model_sha256: str
    nonconformity: str
    alpha: float
    calibration_rows: int
    images: int
    seed: int
    attempts: tuple[Attempt, ...]

    @property
    def largest(self) -> list[Attempt]:
        """Those with the most queries."""
        most = max(attempt.queries for attempt in self.attempts)
        return [attempt for attempt in self.attempts if attempt.queries == most]


def to_rich(record: Record) -> Table:
    """For the terminal: what the largest number of queries achieves."""
    table = Table(*HEADINGS, box=SIMPLE_HEAD, pad_edge=False)
    for attempt in record.largest:
        table.add_row(*_cells(attempt))
    return table


def render(record: Record) -> str:
    """The page."""
    most = record.largest[0].queries
    rows = [HEADINGS, ("---",) * len(HEADINGS), *(_cells(attempt) for attempt in record.largest)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    shown = "\n".join(
        f"- `{level}`: {', '.join(f'`{output}`' for output in outputs)}"
        for level, outputs in VISIBLE.items()
        if level != "full"
    )
    return f"""# Attacks through the service, by disclosure

`{record.command}`

- Model: {record.model}, score {record.nonconformity}, calibrated on {record.calibration_rows:,} rows; flagged
  at α = {record.alpha:g}.
- {record.images} test images, drawn at random among those that are right; seed {record.seed}.
- {record.machine}, {record.date}; {versions}.
- Attackers have nothing but HTTP, a key of their level and up to {most:,} queries for each image. What they hand over
  is judged with a key of full disclosure. V2 shows all outputs at `full`, and otherwise:

{shown}

![Successes over queries](disclosure.png)

{table}

Intervals: Clopper–Pearson, 95 %. Smaller numbers of queries are in `result.json`.

- **Square** (Andriushchenko et al., 2020) climbs the margin of the disclosed logits and stops at the first wrong label.
- **Square, then a low score** goes on from there: it lowers the disclosed nonconformity while the label stays wrong.
- **RayS** (Chen & Gu, 2020) needs labels alone, and stops with the first wrong label inside the ball.
- **RayS around the flag** counts a flagged answer as no success, which takes a visible flag.
- **RayS, far behind the border** does not see the flag but reckons with it: it spends all queries on the direction in
  which the border is nearest and hands over the point at ε in that direction.

**How to read it.** An attacker can do whatever one who sees less can do, so a level is as safe as the strongest
attacker of its own row and of the rows below. All figures are of one model, one seed and few images, against these
attackers and no others: they are upper bounds on safety. Attackers who know the weights need none of this, and transfer
attacks from a model of one's own need no answers at all: no disclosure stops them. V1 shows, at `coarse`, decision and
decile of the score as well; nobody here uses them.
"""


def draw(record: Record, path: Path) -> None:
    """The picture: successes, and those that pass unflagged, over the number of queries."""
    epsilons = sorted({attempt.epsilon for attempt in record.attempts})
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(7.2, 0.7 + 2.3 * len(epsilons)), layout="constrained")
        grid = figure.subplots(len(epsilons), 2, squeeze=False, sharex=True, sharey=True)
        for epsilon, panels in zip(epsilons, grid, strict=True):
            for axes, title in zip(panels, ("wrong label", "wrong label, not flagged"), strict=True):
                axes.set_title(f"{title}, ε = {epsilon:g}", loc="left", fontsize=8)
                axes.set(xscale="log", ylim=(-0.03, 1.03))
                axes.spines[["top", "right"]].set_visible(False)
            for (level, attacker), dashes in _lines(record):
                some = [
                    each
                    for each in record.attempts
                    if (each.level, each.attacker, each.epsilon) == (level, attacker, epsilon)
                ]
                queries = [each.queries for each in some]
                style = {"color": _COLOURS[level], "linestyle": dashes, "label": f"{level}: {attacker}"}
                panels[0].plot(queries, [each.successful.rate for each in some], marker=".", **style)
                panels[1].plot(queries, [each.unflagged.rate for each in some], marker=".", **style)
        for axes in grid[-1]:
            axes.set_xlabel("queries for each image")
        for panels in grid:
            panels[0].set_ylabel("of attacked images")
        handles, names = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(path, dpi=150, metadata={"Software": None})


def _lines(record: Record) -> list[tuple[tuple[Disclosure, str], str]]:
    """Every attacker once, the first of a level with a broken line."""
    pairs = list(dict.fromkeys((attempt.level, attempt.attacker) for attempt in record.attempts))
    levels = [level for level, _ in pairs]
    return [(pair, _DASHES[levels[:place].count(pair[0])]) for place, pair in enumerate(pairs)]


def _cells(attempt: Attempt) -> tuple[str, ...]:
    return (
        f"{attempt.epsilon:g}",
        attempt.level,
        attempt.attacker,
        f"{attempt.mean_queries:,.0f}",
        "–" if attempt.mean_queries_to_success is None else f"{attempt.mean_queries_to_success:,.0f}",
        _share(attempt.successful),
        _share(attempt.unflagged),
        "–" if attempt.unflagged_of_successful is None else _share(attempt.unflagged_of_successful),
        "–" if attempt.median_p_value is None else f"{attempt.median_p_value:.2g}",
    )


def _share(proportion: Proportion) -> str:
    low, high = (100 * bound for bound in proportion.interval)
    return f"{proportion.successes} of {proportion.trials} ({low:.0f}–{high:.0f} %)"
