"""The figures of a report, drawn without a display."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from softrisk_evaluation.evaluate import Evaluation
from softrisk_evaluation.false_alarms import Split
from softrisk_evaluation.levels import p_values
from softrisk_evaluation.logit_pictures.drawings import Ends, draw_levels, draw_profiles, draw_runner_up
from softrisk_evaluation.logit_pictures.shape import CLEAN, STANDING, TURNED
from softrisk_evaluation.under_attack import strongest


def draw_figures(evaluation: Evaluation, folder: Path) -> list[tuple[str, str]]:
    """Write all figures into a folder.

    Returns:
        File name and caption of each.
    """
    figures = []
    if evaluation.attacked:
        caption = "ROC of the risk score: successful attacks against all clean test images"
        figures.append(("roc.png", caption, _roc(evaluation)))
    caption = "p-values of clean test images" + (" and of successful attacks" if evaluation.attacked else "")
    figures.append(("p-values.png", caption, _p_values(evaluation)))
    figures += _logits(evaluation)
    if evaluation.splits:
        caption = "False-alarm rates on random splits and the Beta-binomial law"
        figures.append(("false-alarm-law.png", caption, _law(evaluation.splits)))
    for name, _, figure in figures:
        # Without the version of matplotlib, so that the same report is the same file.
        figure.savefig(folder / name, dpi=120, metadata={"Software": None})
    return [(name, caption) for name, caption, _ in figures]


def _logits(evaluation: Evaluation) -> list[tuple[str, str, Figure]]:
    clean, chosen, most = evaluation.clean, evaluation.chosen, strongest(evaluation.attacked)
    kinds, turned, after = {CLEAN: clean.shape}, chosen[:0], clean.label[:0]
    whose = "clean test images"
    if most is not None:
        shape, successful = most.answers.shape, most.successful
        kinds |= {STANDING: shape.select(most.right), TURNED: shape.select(successful)}
        turned, after = chosen[successful], most.answers.label[successful]
        whose += f" and under {most.attack.label}"
    name = f"{evaluation.manifest.name}, version {evaluation.manifest.version}"
    ends = Ends(clean.label, clean.runner_up, turned, after)
    return [
        ("levels.png", f"Largest logit and logit gap: {whose}", draw_levels({name: kinds})),
        ("softmax-profile.png", f"Softmax from the largest to the smallest: {whose}", draw_profiles({name: kinds})),
        ("runner-up.png", f"Which class is second: {whose}", draw_runner_up({name: ends}, evaluation.manifest.classes)),
    ]


def _roc(evaluation: Evaluation) -> Figure:
    figure = Figure(figsize=(4.8, 3.8), layout="constrained")
    axes = figure.subplots()
    grouping = evaluation.manifest.grouping
    clean = p_values(evaluation.clean, grouping)
    for each in evaluation.attacked:
        values = p_values(each.answers, grouping)[each.successful]
        if values.size:
            is_attacked = np.concatenate([np.zeros(clean.size), np.ones(values.size)])
            false_alarms, detected, _ = roc_curve(is_attacked, -np.concatenate([clean, values]))
            axes.plot(false_alarms, detected, label=each.attack.label, drawstyle="steps-post")
    chance = np.geomspace(1e-3, 1)
    axes.plot(chance, chance, color="0.7", linestyle=":", label="chance")
    # The left end matters: nobody accepts an alarm on every tenth honest request.
    axes.set(xscale="log", xlim=(1e-3, 1), ylim=(0, 1.02), xlabel="false-alarm rate", ylabel="detection rate")
    axes.legend(loc="lower right")
    return figure


def _p_values(evaluation: Evaluation) -> Figure:
    # Clean p-values get axes of their own: beside the peak of the attacked ones, flat and not flat look the same.
    panels = 2 if evaluation.attacked else 1
    figure = Figure(figsize=(4.8, 0.5 + 2.4 * panels), layout="constrained")
    clean, *attacked = figure.subplots(panels, squeeze=False)[:, 0]
    grouping = evaluation.manifest.grouping
    edges = [bin / 20 for bin in range(21)]
    clean.hist(p_values(evaluation.clean, grouping), edges, density=True, color="0.8", label="clean")
    for axes in attacked:
        for each in evaluation.attacked:
            values = p_values(each.answers, grouping)[each.successful]
            if values.size:
                axes.hist(values, edges, density=True, histtype="step", label=each.attack.label)
    for axes in (clean, *attacked):
        axes.axhline(1, color="0.5", linestyle=":", linewidth=1, label="flat")
        axes.set(xlim=(0, 1), xlabel="p-value", ylabel="density")
        axes.legend()
    clean.legend(loc="lower right")
    return figure


def _law(splits: tuple[Split, ...]) -> Figure:
    figure = Figure(figsize=(5 * len(splits), 4), layout="constrained")
    for axes, split in zip(figure.subplots(1, len(splits), squeeze=False)[0], splits, strict=True):
        summary, counts = split.summary, split.false_alarms
        # Bins of equally many integers, or some would hold one count more than their neighbours.
        width = 1 + int(np.ptp(counts)) // 20
        edges = [edge / split.law.judged for edge in np.arange(counts.min() - 0.5, counts.max() + width, width)]
        axes.hist(counts / split.law.judged, edges, color="0.8", label=f"{summary.splits} splits")
        possible = np.arange(counts.min(), counts.max() + 1)
        masses = split.law.masses[possible]
        axes.plot(possible / split.law.judged, masses * summary.splits * width, label="Beta-binomial law")
        for bound in summary.law:
            axes.axvline(bound, color="0.5", linestyle=":", linewidth=1)
        axes.set(title=f"α = {summary.alpha:g}", xlabel="realised false-alarm rate", ylabel="splits")
        axes.legend()
    return figure
