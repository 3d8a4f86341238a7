"""What `benchmarks.false_alarm_law` found: the record, tables, a picture and a page."""

from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np
from benchmarks.record import Circumstances, Part, Subject
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from softrisk_evaluation.report import FalseAlarms, Proportion, Resplits

VERSION_HEADINGS: Final = ("version", "clean rows", "equal scores", "calibration rows", "test rows")
LEVEL_HEADINGS: Final = (
    "version",
    "α",
    "mean rate (exact)",
    "the law's 95 %",
    "splits inside (law)",
    "confident: above α on the test rows (law)",
    "in the long run (exact)",
    "own calibration, other rows",
)


class Level(Part):
    """One false-alarm rate over all random splits of a version's rows."""

    resplits: Resplits
    mean_rate: float
    """Of the false alarms at the marginal level, over the splits."""
    expected_rate: float
    """The law's: marginal rank over n + 1."""
    confident_above_in_the_long_run: float
    """Probability that a calibration's false-alarm rate over endless clean inputs exceeds α at the confident level."""
    alarms: tuple[int, ...]
    """For each split the number of test rows that are flagged at the marginal level."""


class Law(Part):
    """What was found for one version."""

    subject: Subject
    data: str
    rows: int
    """Clean rows that were split."""
    equal_scores: int
    """Rows whose score another row has already."""
    calibration_rows: int
    """Of each split."""
    own_calibration_rows: int
    """Of the version itself."""
    own: tuple[FalseAlarms, ...]
    """Of the version as it is calibrated, on all clean rows but its calibration rows, at the marginal level."""
    levels: tuple[Level, ...]
    """Those that the calibration rows of a split can serve."""

    @property
    def test_rows(self) -> int:
        """Of each split."""
        return self.rows - self.calibration_rows


class Record(Part):
    """Everything that was measured, and how."""

    circumstances: Circumstances
    splits: int
    seed: int
    laws: tuple[Law, ...]


def to_rich(record: Record) -> Table:
    """For the terminal."""
    table = Table(*LEVEL_HEADINGS, box=SIMPLE_HEAD, pad_edge=False)
    for row in _level_rows(record):
        table.add_row(*row)
    return table


def render(record: Record) -> str:
    """The page."""
    sources = "; ".join(dict.fromkeys(law.data for law in record.laws))
    versions = []
    for law in record.laws:
        counts = (law.rows, law.equal_scores, law.calibration_rows, law.test_rows)
        versions.append((str(law.subject), *(f"{count:,}" for count in counts)))
    return f"""# The false-alarm law on random splits

`{record.circumstances.command}`

- Data: {sources}; one row of each content.
- {record.splits} random splits of each version's rows into calibration and test rows, seed {record.seed}.
- {record.circumstances}.

![False-alarm rates of random splits, and the law's intervals](false-alarm-law.png)

{_table(VERSION_HEADINGS, versions)}

Each version scores its rows by its own `model.onnx`. A split has as many calibration rows as the version itself, or
half of the rows where these are fewer than twice as many.

{_table(LEVEL_HEADINGS, _level_rows(record))}

In brackets: what the law expects, without sampling; in the last column its 95 %. A share is followed by its 95 %
interval (Clopper–Pearson).

- **mean rate**: false alarms on the test rows at the marginal level, rank ≤ l = ⌊α (n + 1)⌋; exactly l / (n + 1).
- **inside**: splits whose rate lies in the central 95 % of the Beta-binomial law; counts are integers, so that the law
  puts a little more than 95 % there.
- **confident**: the level promises a rate ≤ α *in the long run* for 95 % of calibrations. What a split shows is a rate
  on finitely many test rows m, which scatters around its long-run rate and therefore exceeds α more often: the law
  gives P(Beta-binomial > α m) for that, and P(Beta > α), at most 5 %, for the long run, which no split can show.
- **own calibration**: the version as it is, on all clean rows that do not calibrate it, with the law's 95 % for their
  number.

**How to read it.** The number of alarms in a random split depends on the order of the scores alone. Without equal
scores it has exactly this law, whatever model and score: the splits test scoring, ranks and limits, and equal scores
can only make alarms rarer. Splits of one pool overlap: they are independent draws of the split, but not independent
samples of images, and more of them say no more about other images. Whether new images are exchangeable with the
calibration rows shows in the last column alone, with a single draw for each α.
"""


def draw(record: Record, path: Path) -> None:
    """The picture: for each α and version the rate of every split, over the central 95 % of the law."""
    alphas = sorted({level.resplits.alpha for law in record.laws for level in law.levels})
    generator = np.random.default_rng(0)
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(2 + 2.6 * len(alphas), 1.1 + 0.45 * len(record.laws)), layout="constrained")
        panels = figure.subplots(1, len(alphas), squeeze=False, sharey=True)[0]
        for alpha, axes in zip(alphas, panels, strict=True):
            axes.use_sticky_edges = False  # a rate of 0 would lie half outside
            for place, law in enumerate(record.laws):
                for level in (each for each in law.levels if each.resplits.alpha == alpha):
                    low, high = (100 * bound for bound in level.resplits.law)
                    axes.barh(place, high - low, 0.8, low, color="0.85", label="central 95 % of the law")
                    rates = 100 * np.array(level.alarms) / law.test_rows
                    heights = place + generator.uniform(-0.3, 0.3, len(rates))
                    axes.plot(rates, heights, ".", color="#1f6f8b", markersize=2, label="a random split")
                    own = 100 * _own(law, alpha).realised.rate
                    axes.plot(own, place, "D", color="#b3312c", markersize=4, label="own calibration, other rows")
            axes.axvline(100 * alpha, color="0.4", linestyle=":", linewidth=1)
            axes.set_title(f"α = {_percent(alpha)}", loc="left", fontsize=8)
            axes.set_xlabel("false alarms, %")
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].set_yticks(range(len(record.laws)), [str(law.subject) for law in record.laws])
        panels[0].invert_yaxis()
        handles, names = panels[0].get_legend_handles_labels()
        shown = dict(zip(names, handles, strict=True))
        figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(path, dpi=150, metadata={"Software": None})


def _level_rows(record: Record) -> list[tuple[str, ...]]:
    return [_cells(law, level) for law in record.laws for level in law.levels]


def _cells(law: Law, level: Level) -> tuple[str, ...]:
    splits, own = level.resplits, _own(law, level.resplits.alpha)
    return (
        str(law.subject),
        _percent(splits.alpha),
        f"{_percent(level.mean_rate)} ({_percent(level.expected_rate)})",
        _between(*splits.law),
        f"{_share(splits.inside)} ({_percent(splits.expected_inside)})",
        f"{_share(splits.confident_above)} ({_percent(splits.expected_above)})",
        _percent(level.confident_above_in_the_long_run),
        f"{_percent(own.realised.rate)} of {own.realised.trials:,} ({_between(*own.law)})",
    )


def _own(law: Law, alpha: float) -> FalseAlarms:
    return next(level for level in law.own if level.alpha == alpha)


def _share(proportion: Proportion) -> str:
    return f"{_percent(proportion.rate)}, {_between(*proportion.interval)}"


def _between(low: float, high: float) -> str:
    return f"{100 * low:.3g} … {100 * high:.3g} %"


def _percent(rate: float) -> str:
    return f"{100 * rate:.3g} %"


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, ("---",) * len(headings), *rows))
