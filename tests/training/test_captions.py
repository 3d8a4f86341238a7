"""Captions of scenes: the grammar, the scenes, the model, its training, its file and its command."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from softrisk_core.cli import COMMANDS
from softrisk_training import cli_captions
from softrisk_training.captioning.captioner import generate
from softrisk_training.captioning.checkpoint import CaptionCheckpoint, build_captioner, load_caption_checkpoint
from softrisk_training.captioning.language import LONGEST, Language
from softrisk_training.captioning.model import SceneCaptioner, scene_captioner
from softrisk_training.captioning.quality import exact_matches, measure, token_accuracy, write_captions
from softrisk_training.captioning.scenes import compose, held_out_scenes
from softrisk_training.captioning.training import CaptionConfig, Schedule, train_captioner
from softrisk_training.data import ImageData, load_data, split_rows
from softrisk_training.errors import CheckpointError, DataError, TrainingError
from softrisk_training.losses import IGNORED
from softrisk_training.trainer import Progress

DIGITS = Language.of([str(digit) for digit in range(10)])
CONFIG = CaptionConfig(8, "ce", {}, 4000, Schedule(epochs=6, learning_rate=3e-3))


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data("digits")


@pytest.fixture(scope="module")
def checkpoint(digits: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("captions") / "digits.pt"
    train_captioner(CONFIG, digits, split_rows(digits, 0), path)
    return path


def test_a_scene_has_one_right_caption() -> None:
    assert DIGITS.describe(3, 7, vertical=False) == "a three left of a seven"
    assert DIGITS.describe(7, 3, vertical=False) == "a three right of a seven"
    assert DIGITS.describe(8, 1, vertical=True) == "a one below an eight"
    assert DIGITS.describe(8, 8, vertical=True) == "an eight above an eight"
    things = Language.of(["Fire Truck", "orange"])
    assert things.describe(1, 0, vertical=False) == "a fire-truck right of an orange"


@given(near=st.integers(0, 9), far=st.integers(0, 9), vertical=st.booleans())
def test_tokens_are_the_caption(near: int, far: int, vertical: bool) -> None:
    caption = DIGITS.describe(near, far, vertical=vertical)
    (tokens,) = DIGITS.encode([caption])
    assert tokens.shape == (LONGEST,)
    assert DIGITS.decode(tokens[None]) == [caption]
    kept = tokens[tokens != IGNORED]
    assert len(kept) == len(caption.split()) + 1
    assert kept[-1] == DIGITS.end
    assert (tokens[len(kept) :] == IGNORED).all()


def test_captions_tell_scenes_apart() -> None:
    captions = [
        DIGITS.describe(near, far, vertical=vertical)
        for near in range(10)
        for far in range(10)
        for vertical in (False, True)
    ]
    assert len(set(captions)) == len(captions)


def test_classes_without_words_of_their_own_are_refused() -> None:
    with pytest.raises(DataError, match="apart from other words: a"):
        Language.of(["a", "b"])
    with pytest.raises(DataError, match="three"):
        Language.of(["3", "three"])


def test_a_scene_shows_what_its_caption_says(digits: ImageData) -> None:
    rows = np.arange(40)
    scenes = compose(digits, rows, 60, seed=1)
    assert scenes.images.shape == (60, 1, 16, 16)
    for scene, caption in zip(scenes.images[:, 0], DIGITS.decode(scenes.captions), strict=True):
        first, relation, second = re.fullmatch(r"an? (\w+) (left of|right of|above|below) an? (\w+)", caption).groups()  # type: ignore[union-attr]
        halves = (scene[:8], scene[8:]) if relation in ("above", "below") else (scene[:, :8], scene[:, 8:])
        if relation in ("right of", "below"):
            halves = halves[::-1]
        for noun, half in zip((first, second), halves, strict=True):
            found = {int(digits.labels[row]) for row in rows if shows(half, digits.images[row, 0])}
            assert DIGITS.nouns.index(noun) in found, caption


def shows(half: np.ndarray, image: np.ndarray) -> bool:
    """Whether the image is somewhere in its half of a scene, and nothing else."""
    upright = half.shape[0] == 8
    for shift in range(9):
        frame = np.zeros_like(half)
        if upright:
            frame[:, shift : shift + 8] = image
        else:
            frame[shift : shift + 8] = image
        if (frame == half).all():
            return True
    return False


def test_scenes_are_decided_by_their_seed_and_made_of_the_given_rows(digits: ImageData) -> None:
    splits = split_rows(digits, 0)
    first, again, other = (compose(digits, splits.training, 20, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.captions, again.captions)
    assert (first.images != other.images).any()
    np.testing.assert_array_equal(held_out_scenes(digits, splits).images, held_out_scenes(digits, splits).images)


def fresh(**changes: int) -> SceneCaptioner:
    torch.manual_seed(0)
    shape = (1, changes.get("side", 16), changes.get("side", 16))
    return scene_captioner(DIGITS, shape, width=4, mean=[0.2], std=[0.3]).eval()


@pytest.mark.parametrize("side", [16, 56, 9])
def test_the_model_takes_scenes_of_many_sizes(side: int) -> None:
    logits = fresh(side=side)(torch.rand(2, 1, side, side), torch.from_numpy(DIGITS.encode(["a one above a two"] * 2)))
    assert logits.shape == (2, LONGEST, len(DIGITS.words))
    assert logits.isfinite().all()


def test_no_token_is_predicted_from_itself_or_from_later_ones() -> None:
    model, images = fresh(), torch.rand(1, 1, 16, 16)
    caption = torch.from_numpy(DIGITS.encode(["a three left of a seven"]))
    logits = model(images, caption)
    for place in range(LONGEST):
        changed = caption.clone()
        changed[:, place:] = DIGITS.words.index("above")
        torch.testing.assert_close(model(images, changed)[:, : place + 1], logits[:, : place + 1])
        if place + 1 < LONGEST:
            assert (model(images, changed)[:, place + 1] != logits[:, place + 1]).any()


def test_greedy_captions_are_the_most_likely_token_by_token() -> None:
    model, images = fresh(), torch.rand(5, 1, 16, 16)
    written = generate(model, images)
    assert written.captions.shape == (5, LONGEST)
    logits = model(images, written.captions)
    kept = written.captions != IGNORED
    torch.testing.assert_close(written.logits[kept], logits[kept], rtol=1e-4, atol=1e-5)
    assert (logits.argmax(dim=2)[kept] == written.captions[kept]).all()
    assert (written.logits[~kept] == 0).all()


def test_a_caption_that_ends_is_left_alone() -> None:
    model = fresh()
    model.output.bias.data[DIGITS.end] = 1e3
    written = generate(model, torch.rand(3, 1, 16, 16))
    assert written.captions.tolist() == [[DIGITS.end] + [IGNORED] * (LONGEST - 1)] * 3


def test_quality_counts_tokens_and_whole_captions() -> None:
    references = DIGITS.encode(["a one above a two", "a three left of a seven"])
    captions = DIGITS.encode(["a one above a two", "a three right of a seven"])
    assert exact_matches(captions, references).tolist() == [True, False]
    assert token_accuracy(captions, references) == pytest.approx(12 / 13)


def test_a_trained_captioner_describes_digits_it_has_not_seen(checkpoint: Path, digits: ImageData) -> None:
    kept = load_caption_checkpoint(checkpoint)
    # Of 200 captions one is right.
    assert kept.quality.exact_match > 0.15
    assert kept.quality.token_accuracy > 0.7
    losses = [epoch["loss"] for epoch in kept.history]
    assert len(losses) == CONFIG.schedule.epochs
    assert losses[-1] < 0.5 * losses[0]
    again = measure(build_captioner(kept), held_out_scenes(digits, split_rows(digits, 0)))
    assert again == pytest.approx(kept.quality)


def test_the_weights_are_decided_by_the_seed(digits: ImageData, tmp_path: Path) -> None:
    splits = split_rows(digits, 0)
    config = CaptionConfig(4, "prsl", {"mode": "topk-mass"}, 128, Schedule(epochs=1))

    def trained(name: str, config: CaptionConfig) -> CaptionCheckpoint:
        return train_captioner(config, digits, splits, tmp_path / name)

    first, again = trained("first.pt", config), trained("again.pt", config)
    other = trained("other.pt", replace(config, schedule=replace(config.schedule, seed=1)))
    for name, values in first.weights.items():
        torch.testing.assert_close(values, again.weights[name], rtol=0, atol=0)
    assert any((values != other.weights[name]).any() for name, values in first.weights.items())
    with pytest.raises(TrainingError, match="exists and is not overwritten"):
        trained("first.pt", config)


def test_a_loss_that_explodes_is_reported(digits: ImageData, tmp_path: Path) -> None:
    config = CaptionConfig(4, "ce", {}, 128, Schedule(epochs=1, batch_size=16, learning_rate=1e30))
    with pytest.raises(TrainingError, match="no longer finite in epoch 1"):
        train_captioner(config, digits, split_rows(digits, 0), tmp_path / "out.pt")
    with pytest.raises(TrainingError, match="epochs must be greater than 0"):
        Schedule(epochs=0)


def test_progress_is_reported_after_every_step(digits: ImageData, tmp_path: Path) -> None:
    seen: list[Progress] = []
    config = CaptionConfig(4, "ce", {}, 40, Schedule(epochs=2, batch_size=16))
    train_captioner(config, digits, split_rows(digits, 0), tmp_path / "out.pt", seen.append)
    assert [progress.steps for progress in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[-1].total_steps == 6
    assert seen[-1].epoch == 2


def test_a_file_of_another_kind_is_refused(checkpoint: Path, trained_digits: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a softrisk-captioner"):
        load_caption_checkpoint(trained_digits)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_caption_checkpoint(tmp_path / "none.pt")
    kept = load_caption_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match="do not fit"):
        build_captioner(replace(kept, arguments={**kept.arguments, "width": 4}))


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli_captions.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


SMALL = ("--scenes", "64", "--epochs", "1", "--width", "4")


def test_the_command_trains_with_what_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "checkpoint in digits-captions.pt" in run(*SMALL)
    assert load_caption_checkpoint(Path("digits-captions.pt")).loss == "ce"
    run(*SMALL, "--loss", "prsl", "--mode", "within-token", "--top-k", "4", "--weight", "0.5", "--out", "some/k.pt")
    kept = load_caption_checkpoint(Path("some/k.pt"))
    assert kept.loss_settings == {"mode": "within-token", "start": 0, "end": 4, "weight": 0.5}
    assert (kept.scenes, kept.schedule["epochs"], kept.arguments["width"]) == (64, 1, 4)
    run(*SMALL, "--loss", "prsl", "--window", "4", "13", "--out", "window.pt")
    expected = {"mode": "across-tokens", "start": 4, "end": 13, "weight": 1e-5}
    assert load_caption_checkpoint(Path("window.pt")).loss_settings == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss", "mse"], "choose one of ce, prsl"),
        (["--loss", "prsl", "--top-k", "4", "--window", "0", "4"], "give one of the two"),
        (["--top-k", "4"], "--top-k, --window and --weight are of --loss prsl, and ce takes none"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_does(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(cli_captions.app, arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_the_root_command_knows_it() -> None:
    assert {command.name: command.module for command in COMMANDS}["train-captions"] == cli_captions.__name__


def test_written_captions_do_not_depend_on_the_batch(checkpoint: Path, digits: ImageData) -> None:
    model = build_captioner(load_caption_checkpoint(checkpoint))
    inputs = held_out_scenes(digits, split_rows(digits, 0)).inputs(np.arange(30))
    together, _ = write_captions(model, inputs)
    alone = np.concatenate([write_captions(model, image[None])[0] for image in inputs])
    np.testing.assert_array_equal(together, alone)
