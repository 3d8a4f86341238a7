"""`softrisk train` as a user types it."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from softrisk_training import cli, trainer
from softrisk_training.checkpoint import load_checkpoint
from softrisk_training.errors import TrainingError
from softrisk_training.losses import LOSSES
from softrisk_training.trainer import Progress, state_path


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_without_a_name_the_checkpoint_is_called_like_the_data() -> None:
    output = run("--epochs", "1")
    assert "1,797 images of 1×8×8, 10 classes" in " ".join(output.split())
    assert "next: softrisk export digits.pt" in output
    checkpoint = load_checkpoint(Path("digits.pt"))
    assert (checkpoint.loss, checkpoint.loss_settings) == ("drsl", {"form": "squared", "tau": 1.0})
    with pytest.raises(TrainingError, match="not overwritten"):
        run("--epochs", "1")
    with pytest.raises(TrainingError, match=r"digits\.pt is finished: next softrisk export digits\.pt"):
        run("--epochs", "1", "--resume")


def test_options_reach_the_checkpoint() -> None:
    run(
        *("digits", "--out", "models/some.pt", "--loss", "drsl", "--form", "conditional", "--tau", "1.5"),
        *("--epochs", "1", "--batch-size", "32", "--learning-rate", "0.01", "--optimizer", "sgd", "--width", "4"),
        *("--augmentation", "crop", "--seed", "3"),
    )
    checkpoint = load_checkpoint(Path("models/some.pt"))
    assert checkpoint.loss_settings == {"form": "conditional", "tau": 1.5}
    assert checkpoint.settings["batch_size"] == 32
    assert checkpoint.settings["optimizer"] == "sgd"
    assert checkpoint.arguments["width"] == 4
    assert checkpoint.seed == 3


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (["--architecture", "resnet"], {"form": "squared", "tau": 0.01}),
        (["--architecture", "resnet", "--form", "logit"], {"form": "logit", "tau": 1.0}),
        (["--architecture", "resnet", "--tau", "0.5"], {"form": "squared", "tau": 0.5}),
        (["--architecture", "resnet", "--loss", "mae"], {}),
    ],
)
def test_the_weight_of_the_default_form_is_that_of_the_network(
    arguments: list[str], settings: dict[str, float | str]
) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (200, 16, 16), dtype=np.uint8)
    np.savez("tiny.npz", images=images, labels=np.arange(200) % 4)
    run("tiny.npz", "--epochs", "1", "--width", "4", *arguments)
    assert load_checkpoint(Path("tiny.pt")).loss_settings == settings


def test_an_adversary_and_noise_reach_the_checkpoint() -> None:
    run(
        *("--epochs", "1", "--width", "4", "--tau-warm-up", "0.3", "--label-noise", "0.2", "--input-noise", "0.05"),
        *("--adversary", "trades", "--epsilon", "0.1", "--attack-steps", "2", "--trades-beta", "3"),
    )
    settings = load_checkpoint(Path("digits.pt")).settings
    assert (settings["tau_warm_up"], settings["label_noise"], settings["input_noise"]) == (0.3, 0.2, 0.05)
    assert (settings["adversary"], settings["adversary_epsilon"]) == ("trades", 0.1)
    assert (settings["adversary_steps"], settings["adversary_beta"]) == (2, 3)


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (("label-smoothing", "--smoothing", "0.2"), {"smoothing": 0.2}),
        (("focal", "--gamma", "1"), {"gamma": 1}),
        (("logit-squeezing", "--weight", "0.1"), {"weight": 0.1}),
        (("gce", "--q", "0.5"), {"q": 0.5}),
        (
            ("symmetric-ce", "--alpha", "6", "--beta", "0.1", "--log-zero", "-6"),
            {"alpha": 6, "beta": 0.1, "log_zero": -6},
        ),
        (("guided-complement", "--alpha", "0.2"), {"alpha": 0.2}),
        (("rce",), {}),
        (("cot",), {}),
    ],
)
def test_every_loss_has_its_options(arguments: tuple[str, ...], settings: dict[str, float]) -> None:
    run("--epochs", "1", "--width", "4", "--loss", *arguments)
    assert load_checkpoint(Path("digits.pt")).loss_settings == settings


def test_a_collapse_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "probe_robustness", lambda *arguments: (0.5, 0.125)[arguments[-1]])
    output = run("--epochs", "4", "--width", "4", "--adversary", "fast", "--epsilon", "0.1")
    assert "stopped after epoch 2: under a short PGD 12.5% of the selection rows are right" in output
    assert "after epoch 1 it was 50.0%" in output
    assert "The weights are those of epoch 1" in output


def test_help_lists_every_loss() -> None:
    output = "".join(run("--help").split())
    assert all(loss in output for loss in LOSSES)


def test_a_setting_of_another_loss_is_refused() -> None:
    with pytest.raises(TrainingError, match="the loss 'ce' has no setting 'tau'"):
        run("--loss", "ce", "--tau", "0.5")


def test_what_needs_no_data_is_refused_before_they_are_loaded() -> None:
    Path("here.pt").touch()
    with pytest.raises(TrainingError, match="not overwritten"):
        run("nowhere", "--out", "here.pt")
    with pytest.raises(TrainingError, match="no setting 'tau'"):
        run("nowhere", "--loss", "ce", "--tau", "0.5")
    with pytest.raises(TrainingError, match="'none' has no setting 'epsilon'"):
        run("nowhere", "--epsilon", "0.5")
    with pytest.raises(TrainingError, match="only the loss 'drsl' has a τ to warm up"):
        run("nowhere", "--loss", "ce", "--tau-warm-up", "0.5")


def test_ctrl_c_before_the_first_epoch_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "_train_epoch", interrupted)
    result = CliRunner().invoke(cli.app, ["--epochs", "3"])
    assert result.exit_code == 130
    assert "nothing to resume" in result.output
    assert "nan" not in result.output
    assert list(Path().iterdir()) == []


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    real_train = trainer.train

    def interrupted(*arguments: object, **options: object) -> object:
        def stop(progress: Progress) -> None:
            if progress.epoch == 2:
                raise KeyboardInterrupt

        return real_train(*arguments, **{**options, "on_progress": stop})  # type: ignore[arg-type]  # passed through

    with monkeypatch.context() as patch:
        patch.setattr(cli, "train", interrupted)
        result = CliRunner().invoke(cli.app, ["--epochs", "3"])
    assert result.exit_code == 130
    assert "1 of 3 epochs are kept in digits.pt.resume; go on with --resume" in " ".join(result.output.split())
    assert state_path(Path("digits.pt")).exists()
    run("--epochs", "3", "--resume")
    assert len(load_checkpoint(Path("digits.pt")).history) == 3
