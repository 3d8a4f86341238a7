"""A report as tables, for the terminal and for `report.md`."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from softrisk_evaluation.directions import DIRECTIONS
from softrisk_evaluation.report import Adaptive, AttackResult, Detection, OperatingPoint, Proportion, Report
from softrisk_evaluation.statistics import Bounds


@dataclass(frozen=True)
class Section:
    """A table with its title and what one has to know to read it.

    Attributes:
        title: One line.
        columns: Headings; the first column is text, the others are figures.
        rows: As many cells as columns.
        note: Shown below; may be empty.
        prose: Whether the other columns are text, too.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    prose: bool = False

    def to_markdown(self) -> list[str]:
        """Heading, table and note as lines."""
        others = "---" if self.prose else "--:"
        lines = [f"## {self.title}", "", _row(self.columns), _row(["---", *(others for _ in self.columns[1:])])]
        lines += [_row(row) for row in self.rows]
        return [*lines, "", self.note] if self.note else lines


def sections(report: Report) -> list[Section]:
    """All tables of a report, the most important first."""
    tables = [_accuracy(report)]
    if report.adaptive is not None:
        tables += adaptive_sections(report.adaptive)
    tables.append(_false_alarms(report))
    if report.resplits:
        tables.append(_resplits(report))
    if report.attacks:
        tables += [_detection(attack, report.data.rows) for attack in report.attacks]
    return [*tables, _checks(report), *([_red_flags(report)] if report.red_flags else [])]


def adaptive_sections(adaptive: Adaptive) -> list[Section]:
    """What attackers reach who know the score."""
    return [_with_rejection(adaptive), _evasion(adaptive), _flooding(adaptive)]


def on_attacks(report: Report) -> str:
    """Whose gradients the attacks used, or that there were none: no table says what was not measured."""
    if report.subject.logits_difference is None:
        return (
            "Nothing about attacks was measured: they need gradients, a bundle brings none, and no checkpoint was "
            "given. How much of an attack the flag would catch is not known."
        )
    return (
        "Attacks use the gradients of the checkpoint; every label, score, rank and flag is the bundle's, run by "
        f"onnxruntime (logits within {report.subject.logits_difference:.1e} of the checkpoint's)."
    )


def to_rich(section: Section) -> Table:
    """For the terminal."""
    table = Table(
        title=section.title,
        title_justify="left",
        caption=section.note or None,
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for position, column in enumerate(section.columns):
        is_text = position == 0 or section.prose
        table.add_column(column, justify="left" if is_text else "right", no_wrap=not section.prose)
    for row in section.rows:
        table.add_row(*row)
    return table


def to_markdown(report: Report, figures: Sequence[tuple[str, str]]) -> str:
    """The whole of `report.md`.

    Args:
        report: Its numbers.
        figures: File name and caption of each figure.
    """
    subject = report.subject
    lines = [
        f"# {subject.name}, version {subject.version}: evaluation",
        "",
        f"`{report.settings.command}`",
        "",
        f"- Bundle: `model.onnx` {subject.model_sha256[:16]}…, score {subject.nonconformity} (large is strange), "
        f"calibration {subject.calibration_id} with n = {subject.calibration_rows}.",
        f"- Data: {report.data.rows} test rows of {report.data.source}, {unseen(report)}.",
        f"- {on_attacks(report)}",
        "- The false-alarm rate is guaranteed on clean traffic like the calibration data."
        + (
            " Detection rates are measured, under these attacks"
            + (
                "; those that know the score have their own tables, and stronger ones may exist."
                if report.adaptive
                else ", none of which knows the score; they promise nothing against one that does."
            )
            if report.attacks
            else ""
        ),
    ]
    for section in (*sections(report), *([_directions()] if report.attacks else [])):
        lines += ["", *section.to_markdown()]
    if figures:
        lines += ["", "## Figures"]
        for name, caption in figures:
            lines += ["", f"![{caption}]({name})", "", caption]
    lines += ["", "Made with " + ", ".join(f"{tool} {number}" for tool, number in report.versions.items()) + "."]
    return "\n".join(lines) + "\n"


def _accuracy(report: Report) -> Section:
    rows = [("clean", *_proportion(report.clean_accuracy), "")]
    rows += [(attack.label, *_proportion(attack.robust), str(attack.successful)) for attack in report.attacks]
    if len(report.attacks) > 1:
        rows += [(f"worst case ε={worst.epsilon:.4g}", *_proportion(worst.robust), "") for worst in report.worst_case]
    columns = ("input", "right", "rate", "95 % interval", "successful")
    shown = len(columns) if report.attacks else len(columns) - 1
    return Section(
        title="Accuracy",
        columns=columns[:shown],
        rows=tuple(row[:shown] for row in rows),
        note=(
            "Under attack: right on the clean and on the attacked image. Worst case: under every attack of this ε. "
            if report.attacks
            else ""
        )
        + "Intervals: Clopper–Pearson.",
    )


def _with_rejection(adaptive: Adaptive) -> Section:
    return Section(
        title="Robust accuracy with rejection",
        columns=("ε", "α", "clean: right and answered", "under attack", "95 % interval"),
        rows=tuple(
            (
                f"{row.epsilon:.4g}",
                f"{row.alpha:g}",
                f"{row.clean.rate:.2%}",
                f"{row.robust.rate:.2%}",
                _bounds(row.robust.interval),
            )
            for row in adaptive.worst_case
        ),
        note="A flagged input gets no answer. Under attack: right and not flagged without one, and right or flagged "
        "under every attack of this ε, those that know the score included. This is the figure to believe.",
    )


def _evasion(adaptive: Adaptive) -> Section:
    alphas = [level.alpha for level in adaptive.attacks[0].undetected]
    return Section(
        title="Attackers who know the score",
        columns=(
            "attack",
            "successful",
            *(f"α {alpha:g}: {part}" for alpha in alphas for part in ("unflagged of successful", "of all")),
        ),
        rows=tuple(
            (
                attack.label,
                str(attack.successful),
                *(
                    "–" if share is None else f"{share.rate:.2%}"
                    for level in attack.undetected
                    for share in (level.of_successful, level.of_all)
                ),
            )
            for attack in adaptive.attacks
        ),
        note="They know model, score and calibration and have the gradients. Unflagged: wrong, and not flagged by the "
        "bundle. λ weighs the score in interquartile ranges of its clean values, the jumps of a gate taken out.",
    )


def _flooding(adaptive: Adaptive) -> Section:
    return Section(
        title="Alarm flooding",
        columns=("attack", "α", "flagged before", "flagged under attack", "95 % interval"),
        rows=tuple(
            (
                row.label,
                f"{row.alpha:g}",
                f"{row.before.rate:.2%}",
                f"{row.after.rate:.2%}",
                _bounds(row.after.interval),
            )
            for row in adaptive.flooding
        ),
        note="Honest inputs, changed so that the label stays and an alarm is raised: whoever can touch traffic can do "
        "so. Of attacked images that are right without an attack.",
    )


def _false_alarms(report: Report) -> Section:
    return Section(
        title="False alarms on clean test images",
        columns=("α", "rank ≤", "flagged", "rate", "95 % interval", "law"),
        rows=tuple(
            (
                f"{row.alpha:g} {row.guarantee}",
                "–" if row.rank_limit is None else str(row.rank_limit),
                *_proportion(row.realised),
                _bounds(row.law),
            )
            for row in report.false_alarms
        ),
        note="Law: central 95 % of the Beta-binomial law for the rate, if test and calibration rows are exchangeable. "
        "A rate outside it is a shift between the two, or bad luck. Levels that need more calibration rows are left "
        "out. –: each calibration group has a limit of its own, and the law is that of their sum.",
    )


def _resplits(report: Report) -> Section:
    return Section(
        title="The false-alarm law on random splits of calibration and test rows",
        columns=("α", "splits", "law", "inside", "share", "expected", "above α", "expected"),
        rows=tuple(
            (
                f"{row.alpha:g}",
                str(row.splits),
                _bounds(row.law),
                str(row.inside.successes),
                f"{row.inside.rate:.1%}",
                f"{row.expected_inside:.1%}",
                f"{row.confident_above.rate:.1%}",
                f"{row.expected_above:.1%}",
            )
            for row in report.resplits
        ),
        note="Law: central 95 % of the Beta-binomial law for the rate at the marginal level; inside: splits that keep "
        "to it. Above α: splits whose rate at the confident level exceeds α; that level holds α with 95 % confidence "
        "for the rate in the long run, the rate on finitely many rows exceeds it more often. Expected: by the law.",
    )


def _detection(attack: AttackResult, clean: int) -> Section:
    rows = []
    for successful, all_attacked in zip(attack.on_successful, attack.on_all, strict=True):
        sign = "−" if successful.strange == "low" else ""
        if successful.flags:
            flagged = (_rates(successful.flags), _rates(all_attacked.flags))
            rows.append(("flagged", "", "", *flagged[0], "", "", *flagged[1]))
        rows.append((sign + successful.score, *_figures(successful), *_figures(all_attacked)))
    return Section(
        title=f"Detection: {attack.label}",
        columns=("score", "AUROC", "own", "1 %", "5 %", "all: AUROC", "own", "1 %", "5 %"),
        rows=tuple(rows),
        note=f"First four figures: {attack.successful} successful attacks; last four: all {attack.robust.trials} "
        f"attacked images; each against all {clean} clean test images. Own: AUROC against what the same images "
        "were before the attack. 1 %, 5 %: TPR of scores at the threshold that flags so many of the clean test images. "
        "Flagged: by the bundle itself at α = 0.01 and 0.05, rank ≤ ⌊α(n + 1)⌋ on its calibration. "
        "−: low values are strange. Below the diagnostics: published scores. What they have to fit is fitted on the "
        "checkpoint's selection rows; a score that these do not determine, or without them (--data), is left out.",
    )


def _checks(report: Report) -> Section:
    unchecked = "The attacks themselves were not checked (--sanity-images 0). "
    return Section(
        title="Checks",
        columns=("check", "found", "limit", "verdict"),
        rows=tuple(
            (check.sign, check.found, check.limit, "red flag" if check.red_flag else "passed")
            for check in report.checks
        ),
        note=(unchecked if report.attacks and not report.soundness else "")
        + "Trust the figures no further than these checks go.",
        prose=True,
    )


def _red_flags(report: Report) -> Section:
    return Section(
        title="Red flags",
        columns=("finding", "what to do"),
        rows=tuple((flag.finding, flag.advice) for flag in report.red_flags),
        prose=True,
    )


def _directions() -> Section:
    return Section(
        title="Which side of a diagnostic is strange",
        columns=("diagnostic", "strange", "because"),
        rows=tuple((name, strange, reason) for name, (strange, reason) in DIRECTIONS.items()),
        note="Fixed for all attacks. An AUROC below 0.5 means that this attack drives the diagnostic the other way.",
        prose=True,
    )


def _figures(detection: Detection) -> tuple[str, ...]:
    areas = (detection.auroc, detection.auroc_on_originals)
    return (*("–" if area is None else f"{area:.3f}" for area in areas), *_rates(detection.points))


def _rates(points: Sequence[OperatingPoint]) -> list[str]:
    return ["–" if point.detected is None else f"{point.detected.rate:.3f}" for point in points]


def _proportion(share: Proportion) -> tuple[str, str, str]:
    return f"{share.successes} of {share.trials}", f"{share.rate:.2%}", _bounds(share.interval)


def _bounds(bounds: Bounds) -> str:
    return f"{bounds.low:.2%}–{bounds.high:.2%}"


def unseen(report: Report) -> str:
    """What the test rows were not used for, as far as that is known."""
    used = "training, selection or calibration" if report.data.training_known else "calibration"
    dropped = f" ({report.data.dropped} others were, and are left out)" if report.data.dropped else ""
    unknown = "" if report.data.training_known else "; which rows the model was trained on is not known"
    return f"none of them used for {used}{dropped}{unknown}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
