"""What all sections of a run share."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving.environments import environment
from benchmarks.serving.points import Points
from benchmarks.serving.running import Running, running
from benchmarks.serving.servers import Server
from benchmarks.serving.subjects import Subject, prepare, standard_network
from rich.progress import Progress, TaskID


@dataclass
class Run:
    """A run of the benchmark.

    Attributes:
        cache: Folder of environments and models.
        points: What is measured so far.
        progress: The bars that are shown.
        servers: Those in the closed loop.
        models: Names of the models there.
        formats: Formats there; None for all.
        connections: Numbers of connections there.
        seconds: Of each measurement.
        repeats: Rotations.
        requests: Of the memory section.
    """

    cache: Path
    points: Points
    progress: Progress
    servers: tuple[Server, ...]
    models: tuple[str, ...]
    formats: tuple[str, ...] | None
    connections: tuple[int, ...]
    seconds: int
    repeats: int
    requests: int
    _subjects: dict[str, Subject] = field(default_factory=dict)

    def subject(self, name: str) -> Subject:
        """One of the two standard models, made at the first call."""
        if name not in self._subjects:
            self._subjects[name] = prepare(standard_network(name), self.cache)
        return self._subjects[name]

    def programs(self, server: Server) -> Path:
        """Folder of a server's programs."""
        return environment(server, self.cache)

    def running(self, server: Server, subject: Subject) -> AbstractContextManager[Running]:
        """A server from start to end."""
        return running(server, subject, self.cache)

    def steps(self, title: str, total: int) -> "Steps":
        """A bar for a section."""
        return Steps(self.progress, self.progress.add_task(title, total=total))


@dataclass(frozen=True)
class Steps:
    """Advances a bar."""

    progress: Progress
    task: TaskID

    def to(self, description: str) -> None:
        """Say what is measured now."""
        self.progress.update(self.task, description=description)

    def done(self, steps: int = 1) -> None:
        """Count what is measured."""
        self.progress.advance(self.task, steps)
