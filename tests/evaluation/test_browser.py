"""The pages of this room in a browser: nothing on the console, and no wider than a telephone or a desk."""

import html
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress

from softrisk_core.bundle import load_bundle
from softrisk_evaluation.evaluate import evaluate
from softrisk_evaluation.experiments.findings import Findings, Picture
from softrisk_evaluation.explain.explanation import explain, references
from softrisk_evaluation.explain.page import PAGE, Album
from softrisk_evaluation.explain.request import Request
from softrisk_evaluation.logit_pictures.drawings import draw_levels
from softrisk_evaluation.logit_pictures.shape import CLEAN, Shape
from softrisk_evaluation.pictures import picture
from softrisk_evaluation.publish import publish
from softrisk_evaluation.rendering import render
from softrisk_evaluation.report import Settings
from softrisk_evaluation.tables import Section
from softrisk_training.data import load_data

WIDTHS = (400, 1400)
"""Pixels: a telephone and a screen."""


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium to open pages with")
    return found


def opened(chromium: str, page: Path, home: Path) -> tuple[str, str]:
    """What is in the document after its scripts have run, and what the browser had to say."""
    root = ["--no-sandbox"] if os.getuid() == 0 else []
    quiet = ["--headless", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={home}"]
    done = subprocess.run(
        [chromium, *root, *quiet, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.fixture(scope="module")
def pages(sealed: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pages")
    bundle = load_bundle(sealed / "digits" / "1")
    settings = Settings(
        command="softrisk evaluate", epsilons=(0.1,), steps=2, restarts=1, limit=40, seed=0, resplits=20,
        sanity_images=0, adaptive=False,
    )  # fmt: skip
    publish(evaluate(bundle, checkpoint, None, settings, Progress(disable=True)), folder / "report")
    rows = load_data("digits").inputs(np.arange(3))
    requests = [Request(f"a rather long name of digit {row}.png", pixels, (8, 8)) for row, pixels in enumerate(rows)]
    explanations = explain(bundle, None, requests, Progress(disable=True))
    Album(bundle.manifest, explanations, references(bundle), by_gradient=False).write(folder, "softrisk explain", {})
    figure = draw_levels({"one": {CLEAN: Shape.of(np.eye(4))}})
    wide = Section("Wide", tuple("abcdefgh"), (("something that is long",) * 8,))
    findings = Findings("Logits", "How sure?", ("one",), [wide], [Picture("levels.png", "What to see", figure)])
    drawn = [((picture(rows[0]), "levels.png"), each) for each in findings.pictures]
    return {
        "report": (folder / "report" / "report.html").read_text(encoding="utf-8"),
        "explanation": (folder / PAGE).read_text(encoding="utf-8"),
        "logits": render("findings.html.j2", findings=findings, figures=drawn, command="softrisk", versions={}),
    }


@pytest.mark.parametrize("name", ["report", "explanation", "logits"])
def test_pages_are_quiet_and_fit_the_screen(chromium: str, pages: dict[str, str], name: str, tmp_path: Path) -> None:
    frames = "".join(
        f'<iframe style="width:{width}px;height:600px;border:0" srcdoc="{html.escape(pages[name])}"></iframe>'
        for width in WIDTHS
    )
    measure = (
        "onload = () => document.querySelectorAll('iframe').forEach(frame => {"
        "const page = frame.contentDocument.documentElement;"
        "document.body.append(`[${page.querySelectorAll('img').length} ${page.scrollWidth} ${page.clientWidth}]`) })"
    )
    (tmp_path / "page.html").write_text(f"<body>{frames}<script>{measure}</script>", encoding="utf-8")
    document, complaints = opened(chromium, tmp_path / "page.html", tmp_path / "home")
    assert complaints == ""
    measured = [tuple(map(int, each)) for each in re.findall(r"\[(\d+) (\d+) (\d+)\]", document)]
    assert len(measured) == len(WIDTHS)
    for pictures, needed, there in measured:
        assert pictures >= 1
        assert needed <= there


def test_the_browser_would_complain(chromium: str, tmp_path: Path) -> None:
    nothing = Findings("Logits", "", (), [])
    page = render("findings.html.j2", findings=nothing, figures=[], command="", versions={})
    page += "<img src='http://example.invalid/picture.png'>"
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    _, complaints = opened(chromium, tmp_path / "page.html", tmp_path / "home")
    assert "Content Security Policy" in complaints


def test_the_sum_of_the_report_is_done_by_its_script(chromium: str, pages: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(pages["report"], encoding="utf-8")
    document, _ = opened(chromium, tmp_path / "report.html", tmp_path / "home")
    assert re.search(r'<output id="precision"[^>]*>→ [\d.]+ % of all alarms are right', document)
