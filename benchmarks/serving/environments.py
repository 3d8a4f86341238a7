"""Virtual environments of the peers, with pinned packages from the registry."""

import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks.serving.errors import UnavailableError
from benchmarks.serving.servers import Server

REQUIREMENTS: Final = Path(__file__).with_name("peers")


def environment(server: Server, cache: Path) -> Path:
    """Folder of the programs of a server's environment, which is made if it is missing or out of date.

    Raises:
        UnavailableError: If it cannot be made here.
    """
    if server.is_ours:
        return Path(sys.executable).parent
    requirements = REQUIREMENTS / f"{server.project}.txt"
    folder = cache / "envs" / server.project
    stamp = folder / "installed.txt"
    wanted = requirements.read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        _call(server, server.python, "-m", "venv", "--clear", folder)
        pip = (folder / "bin" / "python", "-m", "pip", "install", "-qq", "--disable-pip-version-check")
        _call(server, *pip, "-r", requirements)
        stamp.write_text(wanted)
    return folder / "bin"


def versions(programs: Path) -> dict[str, str]:
    """All packages of an environment with their versions."""
    command = ("-m", "pip", "list", "--format=freeze", "--disable-pip-version-check")
    done = subprocess.run([programs / "python", *command], capture_output=True, text=True, check=True)
    pairs = (line.split("==", 1) for line in done.stdout.splitlines() if "==" in line)
    return dict(sorted((name, version) for name, version in pairs))


def _call(server: Server, *command: Path | str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise UnavailableError(f"{server.project} cannot be installed here: {error}") from error
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().splitlines()
        raise UnavailableError(f"{server.project} cannot be installed here: {reason[-1] if reason else 'no reason'}")
