"""`softrisk explain`: an answer taken apart, and held against the artifact itself."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from softrisk_attacks.attack import run_attack
from softrisk_attacks.standard import pgd
from softrisk_core import cli
from softrisk_core.bundle import load_bundle
from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_core.manifest import AudioInput, InputSpec
from softrisk_evaluation.directions import DIRECTIONS
from softrisk_evaluation.errors import EvaluationError
from softrisk_evaluation.explain.reference import Reference
from softrisk_evaluation.explain.request import image_input
from softrisk_evaluation.explain.saliency import coloured, gradient_map, occlusion_map, patches
from softrisk_training.checkpoint import build_model, load_checkpoint
from softrisk_training.data import load_data

Explain = Callable[..., str]
Pair = tuple[Path, Path]


@pytest.fixture
def explain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Explain:
    """Run the command; what it prints, errors included, in one line."""

    def run(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["softrisk", "explain", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        printed = capsys.readouterr()
        text = " ".join((printed.out + printed.err).split())
        assert (stopped.value.code == 0) != ("error:" in text), text
        return text

    return run


@pytest.fixture(scope="module")
def pair(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A clean digit, and the same one as an attack turns it."""
    loaded, digits = load_checkpoint(checkpoint), load_data("digits")
    model = build_model(loaded)
    rows = loaded.splits.test[:60]
    inputs, labels = digits.inputs(rows), digits.labels[rows]
    outcome = run_attack(model, inputs, labels, pgd(0.1, 10, restarts=1), seed=0)
    with torch.inference_mode():
        was_right = model(torch.from_numpy(inputs)).argmax(dim=1).numpy() == labels
    (row, *_) = np.flatnonzero(was_right & outcome.fooled)
    folder = tmp_path_factory.mktemp("pair")
    np.save(folder / "clean.npy", inputs[row])
    np.save(folder / "attacked.npy", outcome.inputs[row])
    return folder / "clean.npy", folder / "attacked.npy"


def served(bundle: Path, image: NDArray[np.float32]) -> dict[str, Any]:
    """What onnxruntime says, asked by nobody of ours."""
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": image[None]}), strict=True))


def test_clean_and_attacked_side_by_side(explain: Explain, repository: Path, pair: Pair, tmp_path: Path) -> None:
    out, version = tmp_path / "out", repository / "digits" / "1"
    printed = explain(*pair, repository / "digits", "--out", out)
    record = json.loads((out / "explanation.json").read_text(encoding="utf-8"))
    histograms = load_bundle(version).calibration().histograms
    html = (out / "explanation.html").read_text(encoding="utf-8")
    assert [image["name"] for image in record["images"]] == ["clean.npy", "attacked.npy"]
    assert record["images"][0]["label"] != record["images"][1]["label"]
    for path, image in zip(pair, record["images"], strict=True):
        answer = served(version, np.load(path))
        assert image["label"] == str(answer["label"][0])
        assert image["flagged"] == bool(answer["flagged"][0])
        assert image["rank"] == answer["rank"][0]
        assert image["p_value"] == pytest.approx(answer["p_value"][0], rel=1e-6)
        assert image["probabilities"] == pytest.approx(answer["probabilities"][0].tolist(), rel=1e-6)
        assert [reading["name"] for reading in image["diagnostics"]] == list(DIAGNOSTICS)
        for reading in image["diagnostics"]:
            name = reading["name"]
            assert reading["value"] == pytest.approx(answer[name][0], rel=1e-6)
            edges, counts = histograms[name]
            below = counts[edges[1:] <= reading["value"]].sum() / counts.sum()
            upto = counts[edges[:-1] <= reading["value"]].sum() / counts.sum()
            assert below - 1e-9 <= reading["percentile"] <= upto + 1e-9
            low = DIRECTIONS[name].strange == "low"
            assert reading["tail"] == pytest.approx(reading["percentile"] if low else 1 - reading["percentile"])
        verdict = "flagged" if image["flagged"] else "not flagged"
        expected = (
            f"“{image['label']}”, p = {image['p_value']:.3g} (rank {image['rank']} of 240), {verdict} at α = 0.05"
        )
        assert expected in printed
    assert html.count("<mark>flagged</mark>") == sum(image["flagged"] for image in record["images"])
    assert "declares no probes" in printed
    assert {path.name for path in out.iterdir()} == {"explanation.html", "explanation.json", "explanation.png"}


def test_the_page_asks_for_nothing_and_shows_names_as_text(
    explain: Explain, repository: Path, pair: Pair, tmp_path: Path
) -> None:
    image = tmp_path / "<img src=x onerror=alert(1)>.npy"
    image.write_bytes(pair[0].read_bytes())
    explain(image, repository / "digits", "--out", tmp_path / "out")
    html = (tmp_path / "out" / "explanation.html").read_text(encoding="utf-8")
    assert "://" not in re.sub(r"data:[^\"]*", "", html)
    assert "default-src 'none'" in html
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)', html))
    assert not re.search(r"<(script|link|iframe|object)|src=x onerror=alert\(1\)>", html)
    assert "&lt;img src=x onerror=alert(1)&gt;.npy" in html


def test_the_gradient_needs_the_checkpoint_of_the_bundle(
    explain: Explain, repository: Path, checkpoint: Path, pair: Pair, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    explain(pair[0], repository / "digits", "--checkpoint", checkpoint, "--out", out)
    assert "brighter pixels help" in (out / "explanation.html").read_text(encoding="utf-8")
    loaded = load_checkpoint(checkpoint)
    loaded.weights.update({name: tensor + 0.1 for name, tensor in loaded.weights.items()})
    loaded.save(tmp_path / "other.pt")
    assert "different classifiers" in explain(pair[0], repository / "digits", "--checkpoint", tmp_path / "other.pt")


def test_encoded_images_are_read_as_the_service_reads_them(explain: Explain, repository: Path, tmp_path: Path) -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(pixels).save(tmp_path / "digit.png")
    Image.fromarray(pixels.repeat(2, axis=0).repeat(3, axis=1)).save(tmp_path / "large.png")
    np.save(tmp_path / "grey.npy", pixels[None])
    names = ("digit.png", "grey.npy", "large.png")
    out = tmp_path / "out"
    printed = explain(*(tmp_path / name for name in names), repository / "digits" / "1", "--out", out)
    images = json.loads((out / "explanation.json").read_text(encoding="utf-8"))["images"]
    answer = served(repository / "digits" / "1", (pixels[None] / np.float32(255)).astype(np.float32))
    for image in images[:2]:
        assert image["nonconformity"] == answer["nonconformity"][0]
    assert "resized from 24×16 to 8×8 pixels" in printed


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("missing.png", None, "cannot be read: No such file"),
        ("text.png", b"hello", "the data is not a PNG or JPEG image"),
        ("text.npy", b"hello", "is not an array that NumPy has saved"),
        ("large.npy", np.zeros((1, 9, 9), np.float32), "has (1, 9, 9) shape, and the input image takes (1, 8, 8)"),
        ("bright.npy", np.full((1, 8, 8), 255, np.float32), "give float in [0, 1]"),
        ("nan.npy", np.full((1, 8, 8), np.nan, np.float32), "give float in [0, 1]"),
        ("whole.npy", np.zeros((1, 8, 8), np.int64), "give float in [0, 1]"),
    ],
)
def test_what_is_no_such_image_is_refused(
    explain: Explain,
    repository: Path,
    tmp_path: Path,
    name: str,
    content: bytes | NDArray[Any] | None,
    complaint: str,
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    printed = explain(path, repository / "digits", "--out", tmp_path / "out")
    assert complaint in printed
    assert str(path) in printed
    assert not (tmp_path / "out").exists()


def test_a_folder_is_no_image(explain: Explain, repository: Path, tmp_path: Path) -> None:
    assert "is a folder: name image files" in explain(tmp_path, repository / "digits")


def test_other_inputs_than_one_image_are_refused(repository: Path) -> None:
    manifest = load_bundle(repository / "digits" / "1").manifest
    (image,) = manifest.inputs
    sound = InputSpec(name="sound", shape=(-1, 100), domain=(-1, 1), audio=AudioInput(sample_rate=8000))
    refused = {
        "has image, sound": (image, sound),
        "sound of digits takes recordings": (sound,),
        "takes arrays of shape (3,)": (InputSpec(name="table", shape=(-1, 3), domain=(0, 1)),),
        "has the domain None": (image.model_copy(update={"domain": None}),),
    }
    for complaint, inputs in refused.items():
        with pytest.raises(EvaluationError, match=re.escape(complaint)):
            image_input(manifest.model_copy(update={"inputs": inputs}))


def test_a_bundle_that_takes_no_encoded_images_asks_for_an_array(
    explain: Explain, repository: Path, tmp_path: Path
) -> None:
    path = repository / "digits" / "1" / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    del manifest["inputs"][0]["image"]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "digit.png")
    assert "takes no encoded images; give a .npy file of shape (1, 8, 8)" in explain(
        tmp_path / "digit.png", repository / "digits"
    )


VALUES = st.floats(-50, 50, width=32, allow_subnormal=False)


@given(st.lists(VALUES, min_size=2, max_size=60), st.floats(-60, 60, width=32))
def test_percentiles_lie_between_the_shares_of_the_edges(values: list[float], value: float) -> None:
    edges = np.unique(np.quantile(values, np.linspace(0, 1, 11)))
    if edges.size < 2:
        edges = edges[0] + np.array([0.0, 1.0])
    counts, edges = np.histogram(values, bins=edges)
    reference = Reference(edges, counts)
    found = reference.percentile(value)
    assert 0 <= found <= 1
    assert found <= reference.percentile(value + 1)
    assert reference.percentile(edges[0]) == 0
    assert reference.percentile(edges[-1]) == pytest.approx(1)
    low, high = reference.span([value])
    assert low < high
    assert low <= value <= high
    assert reference.bars(edges[0], edges[-1]).sum() == pytest.approx(1)


def test_a_constant_diagnostic_has_a_histogram_too() -> None:
    # With two classes the complement entropy is 1, whatever the input.
    reference = Reference(np.array([1.0, 1.0]), np.array([240]))
    low, high = reference.span([1.0])
    assert low < 1 < high
    assert 0 <= reference.percentile(1.0) <= 1
    assert np.isfinite(reference.bars(low, high)).all()


@given(st.integers(1, 70), st.integers(1, 70))
def test_patches_leave_no_pixel_out(height: int, width: int) -> None:
    times = np.zeros((height, width))
    for place in patches(height, width):
        times[place] += 1
    assert (times > 0).all()


def test_what_decides_is_found_where_it_was_put() -> None:
    image = np.zeros((1, 28, 28), np.float32)
    image[0, 4:8, 4:8] = 1
    image[0, 20:24, 20:24] = 1

    def logits(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        first = inputs[:, 0, 4:8, 4:8].sum(axis=(1, 2))
        return np.stack([first, inputs[:, 0, 20:24, 20:24].sum(axis=(1, 2)) / 2], axis=1)

    found = occlusion_map(logits, image, 0, 1)
    assert found[5, 5] == found.max() > 0
    assert found[21, 21] == found.min() < 0
    assert found[14, 14] == 0
    red, green, blue = coloured(found)
    assert (red[5, 5], green[5, 5], blue[5, 5]) == pytest.approx((1, 0, 0))
    assert blue[21, 21] == 1 > red[21, 21]
    assert red[14, 14] == green[14, 14] == blue[14, 14] == 1


def test_the_gradient_is_that_of_the_gap(checkpoint: Path, pair: Pair) -> None:
    model = build_model(load_checkpoint(checkpoint)).double().requires_grad_(False)
    image = np.load(pair[0]).astype(np.float64)
    found = gradient_map(model, image, 3, 5)

    def gap(pixels: NDArray[np.float64]) -> float:
        logits = model(torch.from_numpy(pixels[None]))[0]
        return float(logits[3] - logits[5])

    step = np.zeros_like(image)
    step[0, 4, 4] = 1e-6
    assert found[4, 4] == pytest.approx((gap(image + step) - gap(image - step)) / 2e-6, rel=1e-4, abs=1e-6)
