"""Tables of what was measured, the same on the terminal and on the page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import rich.table
from benchmarks.serving.servers import FORMAT_NAMES
from benchmarks.serving.summary import Row, Summary
from benchmarks.serving.targets import Target


@dataclass(frozen=True)
class Table:
    """Cells as text.

    Attributes:
        title: Above it.
        headings: Of the columns.
        rows: Cells.
        figures: Whether all columns but the first hold figures, which are aligned to the right.
    """

    title: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    figures: bool = True

    def for_terminal(self) -> rich.table.Table:
        """As rich prints it."""
        table = rich.table.Table(title=self.title, title_justify="left")
        for heading in self.headings:
            is_figure = self.figures and heading != self.headings[0]
            table.add_column(heading, justify="right" if is_figure else "left", no_wrap=is_figure)
        for row in self.rows:
            table.add_row(*row)
        return table

    def for_page(self) -> str:
        """As Markdown."""
        marks = ["---", *("---:" if self.figures else "---" for _ in self.headings[1:])]
        lines = (f"| {' | '.join(cells)} |" for cells in (self.headings, marks, *self.rows))
        return "\n".join(lines)


def all_tables(summary: Summary, targets: list[Target]) -> Iterator[Table]:
    """Every table that has rows."""
    yield from load_tables(summary)
    yield from overload_tables(summary)
    yield from growth_tables(summary)
    for table in (concurrency_table, bare_table, ready_table, unavailable_table):
        if table(summary).rows:
            yield table(summary)
    if targets:
        yield target_table(targets)


def load_tables(summary: Summary) -> Iterator[Table]:
    """One for each model and format."""
    headings = (
        "server", "connections", "requests/s", "× bare", "× best peer", "p50 ms", "p95 ms", "p99 ms",
        "CPU µs a request", "errors", "others' cores",
    )  # fmt: skip
    for model in summary.models:
        for format_ in summary.formats(model):
            rows = [_load_cells(summary, row) for row in summary.select(model, format_)]
            yield Table(f"{model}, {FORMAT_NAMES[format_]}", headings, rows)


def _load_cells(summary: Summary, row: Row) -> tuple[str, ...]:
    return (
        row["server"],
        str(row["connections"]),
        f"{row['requests_per_second']:,.0f}{'*' if row['dirty'] else ''}",
        _ratio(row["to_bare"]),
        _ratio(summary.to_best_peer(row)),
        *(f"{row[name]:.2f}" for name in ("p50_ms", "p95_ms", "p99_ms")),
        f"{row['cpu_us']:,.0f}",
        f"{row['errors']:,}",
        f"{row['other_cores']:.2f}",
    )


def bare_table(summary: Summary) -> Table:
    """Bare onnxruntime, and what the diagnosis adds."""
    headings = ("model", "batch 1, images/s", "best, images/s", "at", "diagnosis at batch 1", "at batch 32")
    rows = []
    for model in dict.fromkeys(row["model"] for row in summary.bare):
        single, best = summary.bare_single(model), summary.bare_best(model)
        if single is not None and best is not None:
            added = [_added(summary.diagnosis(model, batch)) for batch in (1, 32)]
            at = f"batch {best['batch']}, {best['threads']} threads"
            figures = (f"{row['images_per_second']:,.0f}" for row in (single, best))
            rows.append((model, *figures, at, *added))
    return Table("onnxruntime alone", headings, rows)


def _added(row: Row | None) -> str:
    return "–" if row is None else f"{1e3 * row['added_ms']:+,.0f} µs ({row['added_ms'] / row['plain_ms']:+.1%})"


def ready_table(summary: Summary) -> Table:
    """Start and memory of every server."""
    rows = [
        (row["server"], row["model"], f"{row['seconds']:.2f}", f"{row['resident_mib']:,.0f}") for row in summary.ready
    ]
    return Table("Start", ("server", "model", "s to the first answer", "MiB resident then"), rows)


def overload_tables(summary: Summary) -> Iterator[Table]:
    """Open loop."""
    row = summary.overload
    if not row:
        return
    cells = (
        f"{row['capacity']:,.0f}",
        f"{row['offered']:,.0f}",
        f"{row['goodput']:,.0f}",
        f"{row['accepted_p50_ms']:,.0f} / {row['accepted_p99_ms']:,.0f}",
        f"{row['rejected_p50_ms']:.2f} / {row['rejected_p99_ms']:.2f} / {row['rejected_max_ms']:.2f}",
        f"{row['expired']:,.0f}",
        f"{row['lost'] + row['other_answers']:,.0f}",
        f"{row['lag_p99_ms']:.2f}",
    )
    headings = (
        "closed loop, requests/s", "offered", "goodput", "accepted: p50 / p99 ms", "429: p50 / p99 / max ms",
        "504", "lost or other", "generator late by, p99 ms",
    )  # fmt: skip
    yield Table("Overload", headings, [cells])


def growth_tables(summary: Summary) -> Iterator[Table]:
    """One for each dimension."""
    exponents = {(row["dimension"], row["format"]): row["exponent"] for row in summary.exponents()}
    headings = ("format", "requests/s", "p50 ms", "CPU µs a request", "session.run alone, ms", "errors")
    for dimension in dict.fromkeys(row["dimension"] for row in summary.growth):
        rows = [
            (
                f"{row['size']:,}",
                row["format"],
                f"{row['requests_per_second']:,.0f}{'*' if row['dirty'] else ''}",
                f"{row['p50_ms']:.2f}",
                f"{row['cpu_us']:,.0f}",
                f"{row['alone_ms']:.3f}",
                f"{row['errors']:,}",
            )
            for row in summary.growth
            if row["dimension"] == dimension
        ]
        fitted = ", ".join(
            f"{format_} {value:.2f}" for (name, format_), value in exponents.items() if name == dimension
        )
        yield Table(f"Cost over {dimension}; exponent: {fitted}", (dimension, *headings), rows)


def concurrency_table(summary: Summary) -> Table:
    """Outcomes."""
    names = ("right", "wrong", "refused", "lost", "switches", "failed_switches")
    rows = [(row["server"], *(f"{row[name]:,}" for name in names)) for row in summary.concurrency]
    return Table("Correct under concurrency", ("server", *names[:-1], "failed switches"), rows)


def target_table(targets: list[Target]) -> Table:
    """What was asked, what was found."""
    rows = [(each.what, each.target, each.measured, "yes" if each.met else "**no**") for each in targets]
    return Table("Targets", ("figure", "target", "measured", "met"), rows, figures=False)


def unavailable_table(summary: Summary) -> Table:
    """What could not be measured."""
    rows = [
        (row["server"], row["model"], row["format"], row["reason"].replace("|", "\\|")) for row in summary.unavailable
    ]
    return Table("Not measured", ("server", "model", "format", "why"), rows, figures=False)


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
