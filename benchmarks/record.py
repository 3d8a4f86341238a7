"""What a record of measurements on versions of a model says about when, on what and of what it was made."""

import os
import platform
import re
import shlex
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import onnxruntime
from pydantic import BaseModel, ConfigDict

from softrisk_core.bundle import MODEL, Bundle
from softrisk_core.manifest import Precision
from softrisk_training.checkpoint import tool_versions


class Part(BaseModel):
    """A part of `result.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Circumstances(Part):
    """When and on what something was measured."""

    command: str
    date: date
    machine: str
    versions: dict[str, str]

    @classmethod
    def here(cls, module: str) -> "Circumstances":
        """This machine, now.

        Args:
            module: Of the `benchmarks`, as it was called.
        """
        processor = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        name = processor[1].strip() if processor else platform.machine()
        return cls(
            command=shlex.join(["python", "-m", f"benchmarks.{module}", *sys.argv[1:]]),
            date=datetime.now(UTC).date(),
            machine=f"{os.cpu_count()} cores, {name}",
            versions={**tool_versions(), "onnxruntime": onnxruntime.__version__},
        )

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"{self.machine}, {self.date}; {versions}"


class Subject(Part):
    """Which version was measured."""

    name: str
    version: int
    model_sha256: str
    nonconformity: str
    short_score: str
    """Without the names of its probes."""
    precision: Precision

    @classmethod
    def of(cls, bundle: Bundle) -> "Subject":
        """From its manifest."""
        manifest, score = bundle.manifest, bundle.manifest.nonconformity
        return cls(
            name=manifest.name,
            version=manifest.version,
            model_sha256=manifest.files[MODEL].sha256,
            nonconformity=str(score),
            short_score=str(score) if score.probes is None else f"{score.score}, {score.probes.mode}",
            precision=manifest.model.precision,
        )

    def __str__(self) -> str:
        return f"{self.name}/{self.version}: {self.short_score}, {self.precision}"
