"""The committed monitoring files, and the programs that judge them."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Json = dict[str, Any]


@pytest.fixture(scope="session")
def monitoring(repository_root: Path) -> Path:
    """The room."""
    return repository_root / "monitoring"


@pytest.fixture(scope="session")
def dashboard(monitoring: Path) -> Json:
    """The committed dashboard."""
    document: Json = json.loads((monitoring / "grafana/dashboards/softrisk.json").read_text(encoding="utf-8"))
    return document


@pytest.fixture(scope="session")
def rules(monitoring: Path) -> list[Json]:
    """All recording and alerting rules."""
    files = sorted((monitoring / "prometheus/rules").glob("*.yml"))
    return [rule for file in files for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


@pytest.fixture(scope="session")
def program() -> Callable[[str, str], str]:
    """Path of a program; the test is skipped, with how to get it, where it is not installed."""

    def find(name: str, install: str) -> str:
        # Programs of Python packages lie beside the interpreter, whose folder need not be on the path.
        path = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        if path is None:
            pytest.skip(f"{name} is not installed: {install}")
        return path

    return find
