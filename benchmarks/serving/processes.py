"""What processes use, read from /proc: of a server with all its children, and of the machine."""

import os
import re
import signal
import time
from pathlib import Path
from typing import Final

_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")
_PROC: Final = Path("/proc")


class Family:
    """All processes that carry a mark in their environment, which children inherit however they are started.

    Args:
        mark: `NAME=value`, unlike that of any other process.
    """

    def __init__(self, mark: str) -> None:
        self._mark = mark.encode()

    def members(self) -> list[int]:
        """Process ids of those that run."""
        found = []
        for path in _PROC.glob("[0-9]*"):
            try:
                if self._mark in (path / "environ").read_bytes().split(b"\0"):
                    found.append(int(path.name))
            except OSError:  # it ended, or is somebody else's
                continue
        return found

    def cpu_seconds(self) -> float:
        """Processor time, user and system, of those that run."""
        return sum(_cpu_seconds(process) for process in self.members())

    def resident_mib(self) -> float:
        """Resident memory of all together, pages that they share counted for each."""
        return sum(_resident_kib(process) for process in self.members()) / 1024

    def end(self, patience: float = 8.0) -> None:
        """Ask all to end, and kill those that are left after `patience` seconds."""
        for number, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, patience)):
            members = self.members()
            for process in members:
                try:
                    os.kill(process, number)
                except ProcessLookupError:
                    continue
            limit = time.monotonic() + wait
            while members and time.monotonic() < limit:
                time.sleep(0.05)
                members = self.members()
            if not members:
                return


def machine_cpu_seconds() -> float:
    """Processor time that the whole machine has used so far, what its host has stolen from a virtual one included."""
    fields = (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _, _, interrupts, soft_interrupts, stolen = (int(field) * _TICK for field in fields)
    return user + nice + system + interrupts + soft_interrupts + stolen


class Others:
    """Counts the processor time of everybody but ourselves from now on."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._before = machine_cpu_seconds() - _own_cpu_seconds()

    def cores(self, known: float = 0.0) -> float:
        """Cores that others kept busy.

        Args:
            known: Processor time of those that do not count as others, besides this process and its ended children.
        """
        used = machine_cpu_seconds() - _own_cpu_seconds() - self._before - known
        return max(used, 0.0) / (time.perf_counter() - self._start)


def _own_cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _cpu_seconds(process: int) -> float:
    try:
        fields = (_PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) * _TICK


def _resident_kib(process: int) -> int:
    try:
        found = re.search(r"^VmRSS:\s+(\d+) kB", (_PROC / str(process) / "status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
