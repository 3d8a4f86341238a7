"""What `benchmarks.probe_cost` found: the record, a table and a page."""

from typing import Final

from benchmarks.record import Circumstances, Part, Subject
from rich.box import SIMPLE_HEAD
from rich.table import Table

from softrisk_evaluation.report import Proportion

HEADINGS: Final = (
    "version",
    "batch",
    "classifier alone, ms",
    "with diagnostics",
    "whole `model.onnx`",
    "rows probed",
    "forward passes a row",
)


class Ratio(Part):
    """A time over that of the classifier alone."""

    value: float
    """From medians over the repeats."""
    low: float
    """Of the repeat where it is least, and …"""
    high: float
    """… where it is greatest; one hiccup of the machine is enough for that."""


class Cost(Part):
    """Times of a version's graphs at one batch size."""

    batch: int
    batches: int
    """Different ones."""
    logits_ms: float
    """Of a batch: the classifier alone."""
    diagnostics: Ratio
    """With diagnostics, but neither score nor rank."""
    whole: Ratio
    """`model.onnx`: with score and rank."""


class VersionCost(Part):
    """What was found for one version."""

    subject: Subject
    rows: int
    probed: Proportion | None
    """Rows that were probed; None for a score without probes."""
    passes: float
    """Forward passes for a row, on average."""
    costs: tuple[Cost, ...]


class Record(Part):
    """Everything that was measured, and how."""

    circumstances: Circumstances
    data: str
    repeats: int
    threads: int
    seed: int
    costs: tuple[VersionCost, ...]


def to_rich(record: Record) -> Table:
    """For the terminal."""
    table = Table(*HEADINGS, box=SIMPLE_HEAD, pad_edge=False)
    for row in _rows(record):
        table.add_row(*row)
    return table


def render(record: Record) -> str:
    """The page."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *_rows(record)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    counts = " or ".join(f"{count:,}" for count in dict.fromkeys(each.rows for each in record.costs))
    return f"""# What scores and probes cost

`{record.circumstances.command}`

- {counts} clean rows of {record.data} that neither trained, selected nor fitted anything, drawn at random with seed
  {record.seed}.
- onnxruntime on the CPU, {record.threads} thread(s), all outputs fetched; {record.repeats} repeats of each batch.
- {record.circumstances}.

{table}

Times over that of the classifier alone, as it is in the version: FP32 or its twin. In brackets the least and the
greatest ratio of a single repeat.

**How to read it.** The graphs take turns on each batch. A batch counts with the median over its repeats, a graph with
the mean over its batches, because a median over batches would not show what a few probed ones cost. A row that is
probed costs a forward pass for each probe more, and one that is not costs none; so `auto` depends on the traffic, and
whoever sends inputs that the gate cannot decide makes it as dear as `always`. In a larger batch all probed rows share
one further run of the classifier.
"""


def _rows(record: Record) -> list[tuple[str, ...]]:
    return [_cells(version, cost) for version in record.costs for cost in version.costs]


def _cells(version: VersionCost, cost: Cost) -> tuple[str, ...]:
    return (
        str(version.subject),
        str(cost.batch),
        f"{cost.logits_ms:.3g}",
        _times(cost.diagnostics),
        _times(cost.whole),
        "–" if version.probed is None else f"{100 * version.probed.rate:.3g} %",
        f"{version.passes:.3g}",
    )


def _times(ratio: Ratio) -> str:
    return f"{ratio.value:.2f} × ({ratio.low:.2f} … {ratio.high:.2f})"
