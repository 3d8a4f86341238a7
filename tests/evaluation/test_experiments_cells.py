"""The pieces of experiments, on small classifiers of digits and on a linear one of which everything is known."""

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import nn

from softrisk_attacks.suite import Effort
from softrisk_evaluation.experiments import answers as answers_module
from softrisk_evaluation.experiments import task as tasks
from softrisk_evaluation.experiments.answers import answers
from softrisk_evaluation.experiments.arms import CE
from softrisk_evaluation.experiments.confidence import at_matched_confidence
from softrisk_evaluation.experiments.cost import step_times
from softrisk_evaluation.experiments.distillation import HARD, student
from softrisk_evaluation.experiments.study import Study
from softrisk_evaluation.experiments.task import Arm, Task, by_arm, checkpoint_path, train_arm, training_cells
from softrisk_evaluation.experiments.worst_case import attack_arm, soundness_of, standing

TASK: Final = Task("digits", "small-cnn", 4, 2, "none", 0.05, (0.02, 0.4), 0.1)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with CE of seed 0, trained in a process of its own, as experiments do."""
    folder = tmp_path_factory.mktemp("work")
    (kept,) = Study(folder, 1, Progress(disable=True)).results("training", training_cells(TASK, [CE], [0]))
    assert 0 <= float(kept["test_accuracy"]) <= 1
    return folder


def test_what_is_trained_is_not_trained_again(work: Path) -> None:
    checkpoint = checkpoint_path(work, TASK, CE, 0)
    before = checkpoint.stat().st_mtime_ns
    again = train_arm(work, TASK, CE, 0)
    assert checkpoint.stat().st_mtime_ns == before
    model, (data, splits) = tasks.trained(work, TASK, CE, 0), tasks.rows_of("digits")
    for name, rows in (("test_accuracy", splits.test), ("selection_accuracy", splits.selection)):
        right = tasks.logits_of(model, data.inputs(rows)).argmax(axis=1) == data.labels[rows]
        assert float(again[name]) == pytest.approx(right.mean())


def test_only_what_shapes_the_weights_names_the_checkpoint() -> None:
    def path(task: Task = TASK, arm: Arm = CE, seed: int = 0) -> Path:
        return checkpoint_path(Path("work"), task, arm, seed)

    assert path(replace(TASK, epsilon=0.3, epsilons=(0.1,), training_epsilon=0.2)) == path()
    assert path(arm=replace(CE, temperature=2.0)) == path()
    others = [
        path(replace(TASK, epochs=3)),
        path(replace(TASK, width=8)),
        path(arm=replace(CE, settings={"smoothing": 0.1})),
        path(arm=replace(CE, training={"label_noise": 0.2})),
        path(seed=1),
    ]
    assert len({path(), *others}) == 6


def test_a_smaller_sample_is_the_beginning_of_a_larger_one() -> None:
    inputs, labels = tasks.test_sample(TASK, 20)
    more, more_labels = tasks.test_sample(TASK, 50)
    np.testing.assert_array_equal(inputs, more[:20])
    np.testing.assert_array_equal(labels, more_labels[:20])


def test_test_and_selection_samples_are_rows_of_their_own() -> None:
    _, splits = tasks.rows_of("digits")
    samples = [tasks.test_sample(TASK, 10_000)[0], tasks.selection_sample(TASK, 10_000)[0]]
    assert [len(sample) for sample in samples] == [len(splits.test), len(splits.selection)]
    images = [{image.tobytes() for image in sample} for sample in samples]
    assert not images[0] & images[1]


def test_results_are_parted_by_arm() -> None:
    arms = [CE, Arm("MAE", "mae")]
    names = [cell.name for cell in training_cells(TASK, arms, range(2))]
    assert by_arm(names, arms) == {"CE": ["trained/CE-0", "trained/CE-1"], "MAE": ["trained/MAE-0", "trained/MAE-1"]}


WEIGHTS: Final = np.random.default_rng(1).normal(size=(2, 16)).astype(np.float32)
SLOPE: Final = float(np.abs(WEIGHTS[0] - WEIGHTS[1]).sum())


@pytest.fixture
def linear(monkeypatch: pytest.MonkeyPatch) -> NDArray[np.int64]:
    """Labels of images far from 0 and 1; a linear model of two classes takes the place of a trained one."""
    layer = nn.Linear(16, 2, bias=False)
    layer.weight.data = torch.from_numpy(WEIGHTS)
    model = nn.Sequential(nn.Flatten(), layer).requires_grad_(False)
    # On the border and, row by row, away from it by 0.005 to 0.05 in the ℓ∞ norm; the last two are labelled wrong.
    direction = np.sign(WEIGHTS[0] - WEIGHTS[1])
    flat = np.full(16, 0.5) - (WEIGHTS[0] - WEIGHTS[1]) @ np.full(16, 0.5) / SLOPE * direction
    distances = np.linspace(0.005, 0.05, 8)
    inputs = (flat + distances[:, None] * direction).reshape(8, 1, 4, 4).astype(np.float32)
    labels = np.array([0] * 6 + [1] * 2)
    monkeypatch.setattr(answers_module, "trained", lambda *_: model)
    monkeypatch.setattr(answers_module, "test_sample", lambda *_: (inputs, labels))
    return labels


def test_answers_about_a_linear_model(linear: NDArray[np.int64], tmp_path: Path) -> None:
    kept = answers(tmp_path, TASK, CE, 0, 8, epsilon=0.02)
    gaps = np.abs(kept["clean"][:, 0] - kept["clean"][:, 1])
    np.testing.assert_allclose(gaps, SLOPE * np.linspace(0.005, 0.05, 8), rtol=1e-3)
    np.testing.assert_allclose(kept["gap_slope"], SLOPE, rtol=1e-5)
    # To first order the radius is the gap over its slope, and a linear model has no second.
    assert (kept["minimal"][6:] == 0).all()
    assert (kept["minimal"][:6] >= gaps[:6] / SLOPE * (1 - 1e-3)).all()
    np.testing.assert_allclose(kept["minimal"][:6], gaps[:6] / SLOPE, rtol=0.1)
    # PGD takes all of its steps: to the corner of the ball, past the border.
    margins = kept["attacked"][:6, 0] - kept["attacked"][:6, 1]
    np.testing.assert_allclose(margins, gaps[:6] - 0.02 * SLOPE, atol=1e-3 * SLOPE)
    np.testing.assert_array_equal(kept["labels"], linear)


def test_a_temperature_is_all_that_confidence_is_matched_by(work: Path) -> None:
    plain = at_matched_confidence(work, TASK, CE, 0, 20)
    assert float(plain["temperature"]) == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(plain["right_matched"], plain["right"])
    unsure = at_matched_confidence(work, TASK, replace(CE, temperature=5.0), 0, 20)
    assert float(unsure["temperature"]) == pytest.approx(1 / 5, rel=1e-4)
    assert float(unsure["confidence"]) < float(plain["confidence"])
    np.testing.assert_array_equal(unsure["right_matched"], plain["right"])


def test_the_suite_says_of_each_attack_which_images_it_fools(work: Path) -> None:
    effort = Effort(steps=3, restarts=1, targets=1, rounds=1, queries=10, draws=5, subset=2)
    kept = attack_arm(work, TASK, CE, 0, CE, 0, 6, 0.1, effort)
    assert kept["fooled"].shape == (len(kept["attacks"]), 6)
    assert kept["families"].shape == kept["attacks"].shape
    inputs, labels = tasks.test_sample(TASK, 6)
    right = tasks.logits_of(tasks.trained(work, TASK, CE, 0), inputs).argmax(axis=1) == labels
    assert not (standing(kept) & ~right).any()
    first_only = [index for index, label in enumerate(kept["attacks"]) if "first 2" in str(label)]
    assert first_only
    np.testing.assert_array_equal(kept["fooled"][first_only][:, 2:], np.tile(~right[2:], (len(first_only), 1)))
    assert soundness_of(kept).epsilon == 0.1


def test_a_student_is_decided_by_its_seed_and_by_what_is_taught(work: Path) -> None:
    def taught(change: str, seed: int) -> tuple[bytes, int]:
        kept = student(work, TASK, CE, change, seed, 10, 0.05)
        assert kept["right"].shape == (10,)
        return kept["right_clean"].tobytes(), len(kept["right_clean"])

    first, tests = taught(HARD, 0)
    assert tests == len(tasks.rows_of("digits")[1].test)
    assert taught(HARD, 0)[0] == first
    assert len({first, taught(HARD, 1)[0], taught("as it is", 0)[0]}) == 3


def test_step_times_are_those_of_each_arm_and_of_ce() -> None:
    kept = step_times(Path("unused"), TASK, (CE, Arm("MAE", "mae")))
    assert kept["seconds"].shape == (2, kept["baseline"].size)
    assert (kept["seconds"] > 0).all()
    assert (kept["baseline"] > 0).all()
