"""What an experiment writes: a page for people and JSON that any parser reads."""

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from softrisk_evaluation.experiments.findings import PAGE, RESULT, Findings, Picture, percent, plain, publish
from softrisk_evaluation.tables import Section


@dataclass(frozen=True)
class Model:
    attacks: int
    share: float
    by_name: dict[str, float | None]


def findings(**facts: Any) -> Findings:
    return Findings(
        title="Losses, digits",
        question="Which is best?",
        method=("100 images.", "Two seeds."),
        tables=[Section("Accuracy", ("loss", "clean, %"), (("CE", "97.1 ± 0.2"),), "All rows.")],
        pictures=[Picture("curve.png", "Over ε.", Figure())],
        facts=facts,
    )


def read(folder: Path) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    result: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"), parse_constant=refuse)
    return result


def test_the_page_has_everything_in_order(tmp_path: Path) -> None:
    publish(findings(), tmp_path / "new" / "folder", "softrisk experiment matched", {"torch": "2.0", "numpy": "1"})
    page = (tmp_path / "new" / "folder" / PAGE).read_text(encoding="utf-8")
    parts = [
        "# Losses, digits\n",
        "\nWhich is best?\n",
        "\n`softrisk experiment matched`\n",
        "\n- 100 images.\n- Two seeds.\n",
        "\n## Accuracy\n",
        "\n| CE | 97.1 ± 0.2 |\n",
        "\nAll rows.\n",
        "\n![Over ε.](curve.png)\n",
        "\nMade with torch 2.0, numpy 1.\n",
    ]
    places = [page.index(part) for part in parts]
    assert places == sorted(places)
    assert (tmp_path / "new" / "folder" / "curve.png").stat().st_size > 0


def test_publishing_again_replaces_and_gives_the_same_files(tmp_path: Path) -> None:
    def contents() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    publish(findings(accuracy=0.5), tmp_path, "command", {})
    first = contents()
    publish(findings(accuracy=0.6), tmp_path, "command", {})
    assert read(tmp_path)["accuracy"] == 0.6
    publish(findings(accuracy=0.5), tmp_path, "command", {})
    assert contents() == first


def test_facts_become_plain_values(tmp_path: Path) -> None:
    publish(
        findings(
            accuracy={"CE": np.array([0.5, 0.75]), "DRSL": [np.float64(1), np.int64(2), np.bool_(True)]},
            models={"CE": [Model(3, 0.25, {"gap": None})]},
            epsilons=(0.1, 0.2),
        ),
        tmp_path,
        "command",
        {"torch": "2.0"},
    )
    assert read(tmp_path) == {
        "command": "command",
        "versions": {"torch": "2.0"},
        "accuracy": {"CE": [0.5, 0.75], "DRSL": [1, 2, True]},
        "models": {"CE": [{"attacks": 3, "share": 0.25, "by_name": {"gap": None}}]},
        "epsilons": [0.1, 0.2],
    }


def test_what_is_not_finite_becomes_null(tmp_path: Path) -> None:
    unknown = Model(0, math.nan, {"gap": math.inf})
    publish(
        findings(
            plain=math.nan, array=np.array([[1.0, np.nan], [-np.inf, 2.0]]), scalar=np.float32("inf"), one=unknown
        ),
        tmp_path,
        "command",
        {},
    )
    found = read(tmp_path)
    assert (found["plain"], found["scalar"]) == (None, None)
    assert found["array"] == [[1.0, None], [None, 2.0]]
    assert found["one"] == {"attacks": 0, "share": None, "by_name": {"gap": None}}


def test_a_fact_without_a_form_in_json_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="JSON serializable"):
        publish(findings(what=object()), tmp_path, "command", {})


@given(st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_figures_are_mean_and_standard_deviation_of_the_seeds(values: list[float]) -> None:
    mean, spread = (float(part) for part in plain(values, 4).split(" ± "))
    assert mean == pytest.approx(statistics.mean(values), abs=6e-5)
    assert spread == pytest.approx(statistics.stdev(values), abs=6e-5)
    mean, spread = (float(part) for part in percent(values, 2).split(" ± "))
    assert mean == pytest.approx(100 * statistics.mean(values), abs=6e-3)
    assert spread == pytest.approx(100 * statistics.stdev(values), abs=6e-3)


def test_figures_of_one_seed_have_no_spread_and_of_none_are_a_dash() -> None:
    assert percent([0.8512]) == "85.1"
    assert plain([0.8512], 3) == "0.851"
    assert percent(np.array([0.5, 0.6])) == "55.0 ± 7.1"
    assert (percent([]), plain([])) == ("–", "–")
