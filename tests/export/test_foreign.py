"""ONNX classifiers as other people make them."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper, parser
from PIL import Image
from typer.testing import CliRunner

from softrisk_core.bundle import load_bundle
from softrisk_core.groups import Grouping
from softrisk_core.scores.catalogue import find_score
from softrisk_export.cli_export import app
from softrisk_export.errors import ForeignModelError
from softrisk_export.foreign import Reading, foreign_source
from softrisk_export.graph import with_risk, with_score
from softrisk_export.runtime import Runner
from softrisk_export.source import Source
from softrisk_export.verify import check_parity

GREY = np.random.default_rng(0).random((70, 1, 6, 6), dtype=np.float32)
COLOUR = np.random.default_rng(1).random((70, 3, 6, 6), dtype=np.float32)

Constants = dict[str, NDArray[Any]]


def weights(rows: int = 36, classes: int = 4) -> Constants:
    generator = np.random.default_rng(rows)
    return {
        "w": generator.normal(size=(rows, classes)).astype(np.float32),
        "b": generator.normal(size=classes).astype(np.float32),
        "rows": np.array([-1, rows]),
    }


def write(folder: Path, text: str, constants: Constants, opset: int = 17, *domains: str) -> Path:
    """An ONNX file from the text of its graph."""
    graph = parser.parse_graph(text)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / "model.onnx")
    return folder / "model.onnx"


def take_over(path: Path, images: NDArray[np.float32] = GREY, **reading: Any) -> Source:
    """The source of a file, once its finished graph has been found to agree with the file."""
    source = foreign_source(path, images, ("p", "q", "r", "s"), Reading(**reading))
    score = find_score("logit_gap:low").load({}, ())
    scores = np.linspace(-9, 0, 100, dtype=np.float32)
    model = with_risk(with_score(source.model, score), scores, Grouping.marginal(100, len(source.classes)), 0.05)
    onnx.checker.check_model(model, full_check=True)
    check_parity(Runner(model), source.logits, score, {source.input.name: images})
    return source


def expected_logits(images: NDArray[np.float32], constants: Constants) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = images.reshape(len(images), -1) @ constants["w"] + constants["b"]
    return logits


def assert_logits(source: Source, images: NDArray[np.float32], expected: NDArray[np.floating]) -> None:
    np.testing.assert_allclose(Runner(source.model)(images)["logits"], expected, rtol=1e-4, atol=1e-5)


ENDINGS = {
    "none": "scores = Gemm (flat, w, b)",
    "softmax": "z = Gemm (flat, w, b) scores = Softmax <axis = 1> (z)",
    "log-softmax": "z = Gemm (flat, w, b) scores = LogSoftmax <axis = 1> (z)",
    "softmax, identity": "z = Gemm (flat, w, b) p = Softmax <axis = 1> (z) scores = Identity (p)",
    "softmax, double": "z = Gemm (flat, w, b) p = Softmax <axis=1> (z) q = Cast <to=11> (p) scores = Cast <to=1> (q)",
    "softmax, flatten": "z = Gemm (flat, w, b) p = Softmax <axis = 1> (z) scores = Flatten (p)",
}


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 21])
@pytest.mark.parametrize("ending", ENDINGS)
def test_the_logits_are_found_behind_any_ending(tmp_path: Path, ending: str, opset: int) -> None:
    text = f"g (float[n, 1, 6, 6] picture) => (float[n, 4] scores) {{ flat = Flatten (picture) {ENDINGS[ending]} }}"
    source = take_over(write(tmp_path, text, weights(), opset))
    assert_logits(source, GREY, expected_logits(GREY, weights()))
    assert source.input.name == "picture"
    assert source.classes == ("p", "q", "r", "s")
    assert source.facts.origin == "onnx"


def test_class_scores_with_trailing_axes(tmp_path: Path) -> None:
    kernel = np.random.default_rng(3).normal(size=(4, 1, 6, 6)).astype(np.float32)
    text = """g (float[n, 1, 6, 6] x) => (float[n, 4, 1, 1] y) { z = Conv (x, k) y = Softmax <axis = 1> (z) }"""
    source = take_over(write(tmp_path, text, {"k": kernel}))
    assert_logits(source, GREY, GREY.reshape(70, 36) @ kernel.reshape(4, 36).T)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_becomes_dynamic(tmp_path: Path, batch: int) -> None:
    text = f"""g (float[{batch}, 1, 6, 6] x) => (float[{batch}, 4] y) {{
        tokens = Reshape (x, folded)
        grown = Expand (token, token_shape)
        all = Concat <axis = 1> (grown, tokens, last)
        flat = Reshape (all, flat_shape)
        y = Gemm (flat, w, b)
    }}"""
    constants = weights(48)
    token, last = np.full((1, 1, 6), 0.3, np.float32), np.full((batch, 1, 6), 0.7, np.float32)
    constants |= {"token": token, "last": last, "token_shape": np.array([batch, 1, 6])}
    constants |= {"folded": np.array([batch, 6, 6]), "flat_shape": np.array([batch, 48])}
    source = take_over(write(tmp_path, text, constants))
    rows = np.concatenate([np.full((70, 6), 0.3), GREY.reshape(70, 36), np.full((70, 6), 0.7)], axis=1)
    assert_logits(source, GREY, expected_logits(rows.astype(np.float32), constants))


def test_an_open_batch_with_a_traced_constant_becomes_dynamic(tmp_path: Path) -> None:
    text = "g (float[n, 1, 6, 6] x) => (float[n, 4] y) { flat = Reshape (x, one_row) y = Gemm (flat, w, b) }"
    constants = weights() | {"one_row": np.array([1, 36])}
    assert_logits(take_over(write(tmp_path, text, constants)), GREY, expected_logits(GREY, constants))


def test_a_batch_that_cannot_be_dynamic_names_the_node(tmp_path: Path) -> None:
    text = """g (float[1, 1, 6, 6] x) => (float[1, 4] y) {
        merged = Reshape (x, heads) flat = Reshape (merged, one_row) y = Gemm (flat, w, b)
    }"""
    constants = weights() | {"heads": np.array([3, 12]), "one_row": np.array([1, 36])}
    with pytest.raises(ForeignModelError, match=r"cannot be made dynamic: .*Reshape_0"):
        take_over(write(tmp_path, text, constants))


def test_rows_that_change_each_other_are_refused_with_the_node(tmp_path: Path) -> None:
    text = """g (float[n, 1, 6, 6] x) => (float[n, 4] y) {
        flat = Flatten (x) mean = ReduceMean <axes = [0]> (flat) centred = Sub (flat, mean) y = Gemm (centred, w, b)
    }"""
    with pytest.raises(ForeignModelError, match=r"in a batch of 2 a row gets other logits .* node ReduceMean_1"):
        take_over(write(tmp_path, text, weights()))


def test_channels_last_mean_std_and_range_go_into_the_graph(tmp_path: Path) -> None:
    text = "g (float[1, 6, 6, 3] x) => (float[1, 4] y) { f = Reshape (x, rows) z = Gemm (f, w, b) y = Softmax (z) }"
    path = write(tmp_path, text, weights(108))
    mean, std = (10.0, 20.0, 30.0), (100.0, 50.0, 40.0)
    source = take_over(path, COLOUR, mean=mean, std=std, value_range=(0.0, 255.0))
    channels_last = (COLOUR.transpose(0, 2, 3, 1) * 255 - np.array(mean)) / np.array(std)
    assert_logits(source, COLOUR, expected_logits(channels_last.astype(np.float32), weights(108)))
    assert source.input.shape == (-1, 3, 6, 6)
    assert source.input.image is not None
    assert source.input.image.mode == "RGB"


@pytest.mark.parametrize("shape", ["n, 36", "n, 6, 6", "1, 36", "n, 1, height, width"])
def test_grey_images_of_any_shape(tmp_path: Path, shape: str) -> None:
    text = f"g (float[{shape}] x) => (float[n, 4] y) {{ flat = Reshape (x, rows) y = Gemm (flat, w, b) }}"
    source = take_over(write(tmp_path, text, weights()))
    assert_logits(source, GREY, expected_logits(GREY, weights()))
    assert source.input.shape == (-1, 1, 6, 6)


@pytest.mark.parametrize(
    ("shape", "ending"),
    [
        ("n, 1", "y = Sigmoid (z)"),
        ("n, 1", "y = Identity (z)"),
        ("n", "p = Sigmoid (z) y = Squeeze (p, one)"),
    ],
)
def test_one_logit_becomes_two(tmp_path: Path, shape: str, ending: str) -> None:
    text = f"g (float[n, 36] x) => (float[{shape}] y) {{ z = Gemm (x, w, b) {ending} }}"
    constants = weights(classes=1) | {"one": np.array([1])}
    source = take_over(write(tmp_path, text, constants))
    single = expected_logits(GREY, constants)
    assert_logits(source, GREY, np.concatenate([np.zeros_like(single), single], axis=1))
    assert source.classes == ("0", "1")


SKLEARN = """g (float[n, 36] X) => (int64[n] output_label, float[n, 4] output_probability) {
    scores = MatMul (X, w)
    shifted = Add (scores, b)
    probabilities = Softmax <axis = 1> (shifted)
    output_probability = Identity (probabilities)
    label = ArgMax <axis = 1, keepdims = 0> (probabilities)
    output_label = Cast <to = 7> (label)
}"""


def test_label_and_probabilities_as_from_scikit_learn(tmp_path: Path) -> None:
    source = take_over(write(tmp_path, SKLEARN, weights(), 15))
    assert_logits(source, GREY, expected_logits(GREY, weights()))


def test_probabilities_without_a_softmax_ask_for_the_logits(tmp_path: Path) -> None:
    text = """g (float[n, 36] x) => (float[n, 4] y) {
        z = Gemm (x, w, b) e = Exp (z) t = ReduceSum (e, axis) y = Div (e, t)
    }"""
    path = write(tmp_path, text, weights() | {"axis": np.array([1])})
    with pytest.raises(ForeignModelError, match=r"y holds probabilities, not logits, .* --logits"):
        take_over(path)
    assert_logits(take_over(path, logits="z"), GREY, expected_logits(GREY, weights()))
    with pytest.raises(ForeignModelError, match="has no tensor 'zz'; it has, among others, z"):
        take_over(path, logits="zz")


REFUSED: dict[str, tuple[str, str]] = {
    "two inputs": ("(float[n, 36] x, float[n, 36] v) => (float[n, 36] y) { y = Add (x, v) }", r"2 inputs \(x, v\)"),
    "bytes": ("(uint8[n, 36] x) => (float[n, 36] y) { y = Cast <to = 1> (x) }", "x of .* is UINT8"),
    "half": ("(float16[n, 36] x) => (float[n, 36] y) { y = Cast <to = 1> (x) }", "x of .* is FLOAT16"),
    "no shape": ("(float x) => (float y) { y = Identity (x) }", "does not say its shape"),
    "size": ("(float[n, 1, 7, 7] x) => (float[n, 49] y) { y = Flatten (x) }", r"\(1, 7, 7\), which images of shape"),
    "two scores": (
        "(float[n, 36] x) => (float[n, 36] y, float[n, 36] v) { y = Abs (x) v = Neg (x) }",
        r"more than one .* y: float32 \(1, 36\); v: float32 \(1, 36\)",
    ),
    "no scores": ("(float[n, 36] x) => (int64[n, 1] y) { y = ArgMax <axis = 1> (x) }", "none of the outputs"),
    "several labels": ("(float[n, 36] x) => (float[n, 36] y) { y = Sigmoid (x) }", "do not exclude each other"),
    "custom": ("(float[n, 36] x) => (float[n, 36] y) { y = my.own.Magic (x) }", "uses operators of my.own"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_taken_over_is_refused_with_the_reason(tmp_path: Path, case: str) -> None:
    text, said = REFUSED[case]
    with pytest.raises(ForeignModelError, match=said):
        take_over(write(tmp_path, f"g {text}", {}, 17, "my.own"))


def test_an_old_opset_is_named(tmp_path: Path) -> None:
    text = "g (float[n, 36] x) => (float[n, 4] y) { y = Gemm (x, w, b) }"
    with pytest.raises(ForeignModelError, match="has opset 10, softrisk takes 11 and later"):
        take_over(write(tmp_path, text, weights(), 10))


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_a_damaged_or_missing_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ForeignModelError, match=r"model\.onnx"):
        take_over(tmp_path / "model.onnx")


def test_weights_beside_the_file_are_taken_in(tmp_path: Path) -> None:
    text = "g (float[n, 36] x) => (float[n, 4] y) { y = Gemm (x, w, b) }"
    path = write(tmp_path, text, weights())
    model = onnx.load(path)
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    source = take_over(path)
    (tmp_path / "weights.bin").unlink()
    assert_logits(source, GREY, expected_logits(GREY, weights()))
    with pytest.raises(ForeignModelError, match="with the weights that belong to it"):
        take_over(path)


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_files_of_torchs_older_exporter(tmp_path: Path, opset: int) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3),
        torch.nn.BatchNorm2d(3),
        torch.nn.ReLU(),
        torch.nn.AvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(12, 4),
        torch.nn.Softmax(dim=1),
    ).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, but its files are everywhere
        torch.onnx.export(
            model, (torch.rand(1, 1, 6, 6),), str(tmp_path / "model.onnx"), dynamo=False, opset_version=opset
        )
    with torch.inference_mode():
        expected = model[:-1](torch.from_numpy(GREY)).numpy()
    assert_logits(take_over(tmp_path / "model.onnx"), GREY, expected)


def export(tmp_path: Path, *arguments: str) -> None:
    np.savez(tmp_path / "clean.npz", images=GREY, labels=np.arange(70) % 4)
    command = [str(tmp_path / "model.onnx"), "--calibration", str(tmp_path / "clean.npz"), "--alpha", "0.1"]
    CliRunner().invoke(app, [*command, "--out", str(tmp_path / "models"), *arguments], catch_exceptions=False)


def test_the_command_line_makes_a_bundle_of_it(tmp_path: Path) -> None:
    write(tmp_path, SKLEARN, weights(), 13)
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\n")
    export(tmp_path, "--name", "theirs", "--classes", str(tmp_path / "names.txt"), "--mean", "0.5", "--std", "0.25")
    bundle = load_bundle(tmp_path / "models" / "theirs" / "1")
    assert bundle.manifest.classes == ("ant", "bee", "cat", "dog")
    assert bundle.manifest.model.origin == "onnx"
    assert bundle.manifest.parity.source < 1e-4
    golden, outputs = bundle.golden()
    inputs = golden["X"]
    np.testing.assert_allclose(
        outputs["logits"], expected_logits(((inputs - 0.5) * 4).astype(np.float32), weights()), rtol=1e-4, atol=1e-4
    )


def test_class_folders_name_the_classes(tmp_path: Path) -> None:
    write(tmp_path, SKLEARN, weights(), 13)
    for row, image in enumerate(np.round(GREY[:, 0] * 255).astype(np.uint8)):
        folder = tmp_path / "clean" / f"c{row % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{row}.png")
    command = [tmp_path / "model.onnx", "--calibration", tmp_path / "clean", "--out", tmp_path / "models"]
    said = CliRunner().invoke(app, [*map(str, command), "--alpha", "0.1"], catch_exceptions=False).output
    assert load_bundle(tmp_path / "models" / "model" / "1").manifest.classes == ("c0", "c1", "c2", "c3")
    assert "cannot check that these rows were not used to train" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--classes", "a,b"], "the model has 4 classes, but --classes names 2"),
        (["--mean", "0.1,0.2"], "--mean takes one value or 1"),
        (["--mean", "dark"], "--mean takes numbers"),
        (["--std", "0"], "--std must be positive"),
        (["--range", "255"], "--range takes two ascending numbers"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, arguments: list[str], said: str) -> None:
    write(tmp_path, SKLEARN, weights(), 13)
    with pytest.raises(Exception, match=said):
        export(tmp_path, *arguments)
