"""Prometheus' own checks of its configuration and of what the alerts do."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("check", "config", "monitoring/prometheus/prometheus.yml"), id="config"),
        pytest.param(("check", "rules", "monitoring/prometheus/rules/softrisk.yml"), id="rules"),
        pytest.param(("test", "rules", "tests/monitoring/softrisk.rules.test.yml"), id="behaviour"),
    ],
)
def test_promtool_accepts(
    arguments: tuple[str, ...], repository_root: Path, program: Callable[[str, str], str]
) -> None:
    promtool = program("promtool", "apt-get install prometheus")
    result = subprocess.run(
        [promtool, *arguments], cwd=repository_root, check=False, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "SUCCESS" in result.stdout


def test_every_alert_is_explained(rules: list[dict[str, Any]], repository_root: Path) -> None:
    text = (repository_root / "docs/monitoring.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"^\| `(Softrisk\w+)` \|", text, flags=re.MULTILINE))
    alerts = [rule for rule in rules if "alert" in rule]
    assert {rule["alert"] for rule in alerts} == explained
    for rule in alerts:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description"}
