"""Medians and ratios of what was measured."""

from dataclasses import dataclass
from typing import Any

from benchmarks.serving.points import Points
from benchmarks.serving.servers import COMPARED, SERVERS, SOFTRISK
from benchmarks.serving.statistics import growth_exponent, slope, summarise

Row = dict[str, Any]

_PROJECTS = {server.name: server.project for server in SERVERS}


@dataclass(frozen=True)
class Summary:
    """All sections of a run, repeats made one; sections that were not measured are empty.

    Attributes:
        loads: Closed loop, by server, model, format and connections.
        bare: onnxruntime alone, by model, threads and batch.
        cost: What the diagnosis adds to the graph, by model and batch.
        ready: Seconds to the first answer, and resident memory then, by server and model.
        memory: Resident memory over many requests.
        overload: Open loop, by model.
        growth: Closed loop at growing sizes, by dimension, format and size.
        concurrency: Counts of right and wrong answers, by server.
        unavailable: Why something was not measured, by server, model and format.
    """

    loads: list[Row]
    bare: list[Row]
    cost: list[Row]
    ready: list[Row]
    memory: Row
    overload: Row
    growth: list[Row]
    concurrency: list[Row]
    unavailable: list[Row]

    @classmethod
    def of(cls, points: Points) -> "Summary":
        """Summarise points."""
        return cls(
            loads=summarise(points.of("load"), ("server", "model", "format", "connections")),
            bare=summarise(points.of("bare"), ("model", "threads", "batch")),
            cost=summarise(points.of("cost"), ("model", "batch")),
            ready=summarise(points.of("ready"), ("server", "model")),
            memory=next(iter(points.of("memory")), {}),
            overload=next(iter(summarise(points.of("overload"), ("model",))), {}),
            growth=summarise(points.of("growth"), ("dimension", "format", "size")),
            concurrency=points.of("concurrency"),
            unavailable=points.of("unavailable"),
        )

    @property
    def models(self) -> list[str]:
        """Those loaded."""
        return list(dict.fromkeys(row["model"] for row in self.loads))

    def formats(self, model: str) -> list[str]:
        """Those that a model was loaded in; those that are compared first."""
        found = dict.fromkeys(row["format"] for row in self.loads if row["model"] == model)
        return sorted(found, key=lambda format_: format_ not in COMPARED)

    def select(self, model: str, format_: str, connections: int | None = None) -> list[Row]:
        """Loads of a model and a format, the fastest server first, its connections ascending."""
        rows = [
            row
            for row in self.loads
            if (row["model"], row["format"]) == (model, format_) and connections in (None, row["connections"])
        ]
        best: dict[str, float] = {}
        for row in rows:
            best[row["server"]] = max(best.get(row["server"], 0.0), row["requests_per_second"])
        return sorted(rows, key=lambda row: (-best[row["server"]], row["server"], row["connections"]))

    def ours(self, model: str, format_: str, connections: int) -> list[Row]:
        """Our configurations, the fastest first."""
        return [row for row in self.select(model, format_, connections) if is_ours(row)]

    def peers(self, model: str, format_: str, connections: int) -> list[Row]:
        """All others, the fastest first."""
        return [row for row in self.select(model, format_, connections) if not is_ours(row)]

    def bare_best(self, model: str) -> Row | None:
        """The plain network at its best batch size and number of threads."""
        return _fastest([row for row in self.bare if row["model"] == model])

    def bare_single(self, model: str) -> Row | None:
        """The plain network with one image a run, at its best number of threads."""
        return _fastest([row for row in self.bare if (row["model"], row["batch"]) == (model, 1)])

    def bare_for(self, model: str, connections: int) -> Row:
        """What a load is compared with: with one connection the plain network at batch 1, else at its best batch."""
        found = self.bare_single(model) if connections == 1 else self.bare_best(model)
        if found is None:
            raise ValueError(f"onnxruntime alone has not been measured with {model}")
        return found

    def to_best_peer(self, row: Row) -> float | None:
        """Requests a second over those of the best peer with the same model, format and connections."""
        peers = self.peers(row["model"], row["format"], row["connections"])
        return float(row["requests_per_second"] / peers[0]["requests_per_second"]) if peers else None

    def diagnosis(self, model: str, batch: int) -> Row | None:
        """What diagnostics and p-value add to a run."""
        return next((row for row in self.cost if (row["model"], row["batch"]) == (model, batch)), None)

    def exponents(self) -> list[Row]:
        """How the cost of a request grows: fitted exponent by dimension and format."""
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in self.growth:
            groups.setdefault((row["dimension"], row["format"]), []).append(row)
        found = []
        for (dimension, format_), rows in groups.items():
            rows.sort(key=lambda row: row["size"])
            # What n connections cost is the time that each of them waits.
            figure = "p50_ms" if dimension == "connections" else "cpu_us"
            exponent = growth_exponent([row["size"] for row in rows], [row[figure] for row in rows])
            errors = sum(row["errors"] for row in rows)
            found.append({"dimension": dimension, "format": format_, "exponent": exponent, "errors": errors})
        return found

    def memory_growth(self) -> Row | None:
        """Least-squares slope of resident memory over the second half of the requests."""
        samples = self.memory.get("samples", [])
        half = samples[len(samples) // 2 :]
        if len(half) < 3:
            return None
        found = slope([each["requests"] for each in half], [each["resident_mib"] for each in half])
        return {
            "requests": samples[-1]["requests"],
            "ready_mib": self.memory["ready_mib"],
            "last_mib": samples[-1]["resident_mib"],
            "most_mib": max(each["resident_mib"] for each in samples),
            "mib_per_million": 1e6 * found,
        }


def is_ours(row: Row) -> bool:
    """Whether a row is of softrisk."""
    return _PROJECTS.get(row["server"]) == SOFTRISK


def _fastest(rows: list[Row]) -> Row | None:
    return max(rows, key=lambda row: float(row["images_per_second"]), default=None)
