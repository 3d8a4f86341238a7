"""On what, when and with which versions something was measured."""

import os
import platform
import re
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.serving.environments import versions
from benchmarks.serving.errors import UnavailableError
from benchmarks.serving.run import Run
from benchmarks.serving.servers import CORES


def describe(run: Run) -> dict[str, Any]:
    """All that a reader needs to judge the figures."""
    memory = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    processor = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": shlex.join(["scripts/bench", "serving", *(part for part in sys.argv[1:] if part != "--resume")]),
        "processor": processor[1].strip() if processor else platform.machine(),
        "cores": CORES,
        "cores_of_machine": os.cpu_count(),
        "memory_gib": round(int(memory[1]) / 2**20) if memory else None,
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": _versions(run),
    }


def _versions(run: Run) -> dict[str, dict[str, str]]:
    found = {}
    for server in run.servers:
        if server.project not in found:
            try:
                found[server.project] = versions(run.programs(server))
            except UnavailableError:
                continue
    return found
