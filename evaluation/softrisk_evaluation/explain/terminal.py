"""Explanations for a terminal."""

from collections.abc import Iterator, Sequence
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from softrisk_core.manifest import Manifest
from softrisk_evaluation.explain.explanation import Explanation, what_flags
from softrisk_evaluation.page import depicted, softmax_bars

_BARS: Final = 5
"""Classes whose softmax is shown."""

_LENGTH: Final = 24
"""Of a bar of probability 1, in characters."""

_STRANGE: Final = 0.01
"""Share of clean data: what fewer reach is printed in red."""


def summarise(explanations: Sequence[Explanation], manifest: Manifest) -> Iterator[RenderableType]:
    """Everything but the pictures, the answer to each image first."""
    for explanation in explanations:
        yield _answer(explanation, manifest)
        yield _softmax(explanation, manifest)
    yield _diagnostics(explanations)
    yield Text(what_flags(manifest))
    if explanations[0].probes:
        yield _probes(explanations, manifest)
    else:
        yield Text("The bundle declares no probes: nobody said which changes of an image keep its class.")


def _answer(explanation: Explanation, manifest: Manifest) -> Text:
    shown = depicted(explanation.view, manifest)
    n = manifest.grouping.size_of_key[explanation.view.label]
    flagged = "flagged" if explanation.flagged else "not flagged"
    text = Text(explanation.request.name, style="bold")
    text.append(
        f"  “{shown.label}”, p = {shown.p_value:.3g} (rank {explanation.view.rank:,} of {n + 1:,}), ", style="not bold"
    )
    text.append(
        f"{flagged} at α = {manifest.calibration.alpha:g}", style="bold red" if explanation.flagged else "green"
    )
    if explanation.request.note:
        text.append(f"\n{explanation.request.note}", style="not bold")
    return text


def _softmax(explanation: Explanation, manifest: Manifest) -> Table:
    bars = softmax_bars(explanation.view, None, explanation.view.label, manifest.classes)
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 1, 0, 1))
    for bar in sorted(bars, key=lambda bar: -bar.clean)[:_BARS]:
        drawn = "█" * round(_LENGTH * bar.clean) or "▏"
        table.add_row(Text(bar.name, overflow="ellipsis"), Text(drawn.ljust(_LENGTH)), f"{bar.clean:.3f}")
    return table


def _diagnostics(explanations: Sequence[Explanation]) -> Table:
    table = _table("Diagnostics: value, and share of clean calibration data that is at least as strange", explanations)
    for readings in zip(*(each.readings for each in explanations), strict=True):
        cells = [
            Text(f"{each.value:.4g}  {each.tail:6.1%}", style="red" if each.tail < _STRANGE else "")
            for each in readings
        ]
        sign = "−" if readings[0].strange == "low" else ""
        table.add_row(sign + readings[0].name, *cells)
    return table


def _probes(explanations: Sequence[Explanation], manifest: Manifest) -> Table:
    table = _table("Probes: what the classifier says about the changed image", explanations)
    for probes in zip(*(each.probes for each in explanations), strict=True):
        cells = [
            Text(
                f"{manifest.classes[probe.label]}  {probe.confidence:.3f}",
                style="" if probe.label == explanation.view.label else "red",
            )
            for explanation, probe in zip(explanations, probes, strict=True)
        ]
        table.add_row(probes[0].name, *cells)
    looked = ("yes" if each.was_probed else "no" for each in explanations)
    table.add_row("did the score look?", *looked)
    return table


def _table(title: str, explanations: Sequence[Explanation]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("", no_wrap=True)
    for explanation in explanations:
        # Text, because a file's name may hold what rich takes for markup.
        table.add_column(Text(explanation.request.name), justify="right", overflow="fold")
    return table
