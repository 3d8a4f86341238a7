"""The experiment from pairs to a page, and its refusal of a certificate that an attack contradicts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from softrisk_evaluation import cli_multimodal
from softrisk_evaluation.errors import EvaluationError
from softrisk_evaluation.experiments.study import Kept
from softrisk_evaluation.multimodal.attacks import Effort, right_under_fgm, rising_pgd
from softrisk_evaluation.multimodal.measure import check_certificate


@pytest.mark.usefixtures("in_process")
def test_the_command_writes_a_page_and_goes_on_from_what_is_kept(tones: Path, tmp_path: Path) -> None:
    out, work = tmp_path / "out", tmp_path / "work"
    arguments = ["digits", str(tones), "--out", str(out), "--work", str(work), "--jobs", "1", "--seeds", "1"]
    arguments += ["--epochs", "1", "--rows", "10", "--quick"]
    result = CliRunner().invoke(cli_multimodal.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    page = (out / "README.md").read_text()
    for title in ("Right under ℓ2-PGD", "Differences", "Preferred modality", "Radii", "Other attacks"):
        assert f"## {title}" in page
    assert (out / "robustness.png").stat().st_size > 10_000
    facts = json.loads((out / "result.json").read_text())
    row = facts["measured"]["crmt, lipschitz"][0]
    assert len(row["certified/both"]) == len(row["pgd/both"]) == 10
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*.npz")}
    CliRunner().invoke(cli_multimodal.app, arguments, catch_exceptions=False)
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*.npz")} == before


def kept(certified: list[float], distance: list[float], epsilon: list[float]) -> Kept:
    return {
        "right": np.array([True, True]),
        "certified/both": np.array(certified),
        "distance/both": np.array(distance),
        "pgd/both": np.array(epsilon),
        "fgm/both": np.array([[True, True]]),
    }


def test_a_contradicted_certificate_ends_the_evaluation() -> None:
    check_certificate(kept([0.5, 2.0], [0.9, np.inf], [1.0, np.inf]), "both", [1.0])
    with pytest.raises(EvaluationError, match="within their certified radius"):
        check_certificate(kept([1.0, 2.0], [0.9, np.inf], [1.0, np.inf]), "both", [1.0])
    # No single change is known to be shorter, but fewer rows stand than are certified.
    with pytest.raises(EvaluationError, match="the certificate is wrong"):
        check_certificate(kept([1.0, 2.0], [1.0, np.inf], [1.0, np.inf]), "both", [1.0])


def test_rising_radii_give_one_falling_curve_and_the_smallest_that_was_enough() -> None:
    def model(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        total = first.sum(dim=1) + second.sum(dim=1)
        return torch.stack([total, torch.zeros_like(total)], dim=1)

    # The border is at a distance of total / sqrt(2) jointly, of total by one input alone.
    centres = [torch.tensor([[0.3], [0.5], [1.0], [-1.0]]), torch.zeros(4, 1)]
    labels = torch.zeros(4, dtype=torch.int64)
    arguments = {"domains": (None, None), "effort": Effort(steps=10, targets=1, restarts=1), "seed": 0}
    jointly = rising_pgd(model, centres, labels, (0.25, 0.4, 0.6), moved=(True, True), **arguments)  # type: ignore[arg-type]
    np.testing.assert_array_equal(jointly.epsilon, [0.25, 0.4, np.inf, 0.0])
    alone = rising_pgd(model, centres, labels, (0.25, 0.4, 0.6), moved=(False, True), **arguments)  # type: ignore[arg-type]
    np.testing.assert_array_equal(alone.epsilon, [0.4, 0.6, np.inf, 0.0])
    assert (jointly.distance[:2] <= jointly.epsilon[:2] + 1e-6).all()
    assert (jointly.distance[:2] >= np.array([0.3, 0.5]) / np.sqrt(2)).all()
    fgm = right_under_fgm(model, centres, labels, (0.25, 0.6), moved=(True, True), domains=(None, None))
    np.testing.assert_array_equal(fgm, [[False, True, True, False], [False, False, True, False]])
