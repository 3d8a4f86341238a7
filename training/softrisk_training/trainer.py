"""The training loop: seeded, resumable after every epoch, the same to the last bit either way.

Row order, augmentation, noise and the starts of attacks of an epoch are drawn from (seed, epoch) alone, the learning
rate is a function of the step, and nothing else draws random numbers once the weights are initialised. So an
interrupted run needs no random state to go on exactly as it would have. (On the same machine, CPU and number of
threads: sums of floats depend on their order.)
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softrisk_training.adversarial import NO_ADVERSARY, Adversary, batch_loss, best_epoch, collapsed, probe_robustness
from softrisk_training.augmentation import Augmentation, add_noise, augment
from softrisk_training.checkpoint import Checkpoint, read_payload, tool_versions, write_payload
from softrisk_training.data import ImageData, Splits, absolute_location
from softrisk_training.errors import TrainingError
from softrisk_training.label_noise import with_label_noise
from softrisk_training.losses import DRSL, Loss, make_loss
from softrisk_training.models import Classifier, Optimizer, build_classifier

STATE_FORMAT: Final = "softrisk-training-state"
EVALUATION_BATCH: Final = 500
HISTORY: Final = ("loss", "accuracy", "selection_accuracy", "robust_accuracy")
RECORDED: Final = (
    *("batch_size", "optimizer", "learning_rate", "weight_decay", "augmentation", "bfloat16"),
    *("tau_warm_up", "label_noise", "input_noise"),
)
"""Fields of `TrainingConfig` that the settings of a checkpoint repeat."""

WARM_UP: Final = 0.25
"""Share of the steps in which the learning rate rises."""


@dataclass(frozen=True)
class TrainingConfig:
    """All that decides, with data and splits, which weights come out.

    Attributes:
        architecture: Name of the architecture.
        width: Filters of its first layer.
        loss: Name of the loss.
        loss_settings: Its settings; those not given take their defaults.
        epochs: Passes over the training rows, ≥ 1.
        batch_size: Rows in a step, ≥ 1.
        optimizer: `adamw` or `sgd` with Nesterov momentum 0.9.
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: Decoupled for `adamw`, ℓ2 for `sgd`.
        augmentation: Which changes of the images preserve their label.
        bfloat16: Whether the forward pass runs in bfloat16 autocast; the loss is always float32.
        seed: Of initialisation, row order, augmentation, noise and attacks.
        tau_warm_up: Share of the steps, in [0, 1], over which the weight τ of DRSL rises from 0 in a straight line.
        adversary: Who attacks the training inputs.
        label_noise: Share of the training labels that are made wrong, in [0, 1].
        input_noise: Standard deviation of Gaussian noise on training inputs, in units of [0, 1] pixels, ≥ 0.
    """

    architecture: str
    width: int
    loss: str
    loss_settings: dict[str, float | str]
    epochs: int
    batch_size: int
    optimizer: Optimizer
    learning_rate: float
    weight_decay: float
    augmentation: Augmentation
    bfloat16: bool
    seed: int
    tau_warm_up: float = 0.0
    adversary: Adversary = NO_ADVERSARY
    label_noise: float = 0.0
    input_noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "width"):
            if not getattr(self, name) > 0:
                raise TrainingError(f"{name.replace('_', ' ')} must be greater than 0, got {getattr(self, name)}")
        for name in ("tau_warm_up", "label_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise TrainingError(f"{name.replace('_', ' ')} must be in [0, 1], got {getattr(self, name):g}")
        if not self.input_noise >= 0:
            raise TrainingError(f"input noise must not be negative, got {self.input_noise:g}")
        make_loss(self.loss, **self.loss_settings)
        if self.tau_warm_up and self.loss != DRSL.name:
            raise TrainingError(f"only the loss 'drsl' has a τ to warm up, not {self.loss!r}")


@dataclass(frozen=True)
class Progress:
    """How far training is, reported after every step.

    Attributes:
        epoch: Finished epochs, counting the present one as its steps go by.
        steps: Finished steps of all epochs.
        total_steps: Steps that there will be.
        loss: Mean training loss of this epoch so far.
        accuracy: Training accuracy of this epoch so far, in [0, 1], on the inputs that the loss was taken of.
        selection_accuracy: On the selection rows; None until the epoch is finished.
        robust_accuracy: The same under a short PGD, of an epoch of adversarial training; None otherwise.
    """

    epoch: int
    steps: int
    total_steps: int
    loss: float
    accuracy: float
    selection_accuracy: float | None = None
    robust_accuracy: float | None = None


def state_path(out: Path) -> Path:
    """Where an unfinished training keeps its state, beside the checkpoint that it will write."""
    return out.with_name(out.name + ".resume")


def finished_epochs(out: Path) -> int:
    """How many epochs of an unfinished training are kept; 0 without one.

    Raises:
        CheckpointError: If its state cannot be read.
    """
    return len(read_payload(state_path(out), STATE_FORMAT)["history"]) if state_path(out).exists() else 0


def refuse_conflicts(out: Path, *, resume: bool) -> None:
    """Refuse to overwrite anything, and to guess whether an unfinished training is to go on.

    Args:
        out: The checkpoint that is to be written.
        resume: Whether an unfinished training is to go on.

    Raises:
        TrainingError: If `out` exists, or an unfinished training is there but `resume` is not set, or the reverse.
    """
    unfinished = state_path(out).exists()
    if out.exists() and resume and not unfinished:
        raise TrainingError(f"{out} is finished: next softrisk export {out}")
    if out.exists():
        raise TrainingError(f"{out} exists and is not overwritten; choose another --out, or delete it")
    if unfinished and not resume:
        raise TrainingError(
            f"{state_path(out)} is left from an unfinished training; go on with --resume, or delete it to start again"
        )
    if resume and not unfinished:
        raise TrainingError(f"there is nothing to resume: {state_path(out)} does not exist; leave out --resume")


def train(
    config: TrainingConfig,
    data: ImageData,
    splits: Splits,
    out: Path,
    *,
    resume: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Checkpoint:
    """Train a classifier and write its checkpoint.

    After every epoch the state is written beside `out`; whenever the process ends, `resume` goes on from there. The
    weights are those of the last epoch, unless adversarial training collapses: then they are those of the most
    robust one, `kept_epoch` in the settings of the checkpoint.

    Args:
        config: What to train.
        data: Where the rows are.
        splits: Which rows are for what. Calibration rows are not looked at.
        out: The checkpoint; it must not exist.
        resume: Go on with the unfinished training to this `out`.
        on_progress: Called after every step and every epoch.

    Raises:
        TrainingError: If `out` exists, if there is an unfinished training and `resume` is not set, if there is none
            and it is, if the unfinished one was another, or if the loss is no longer finite.
    """
    refuse_conflicts(out, resume=resume)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loss = make_loss(config.loss, **config.loss_settings)
    model, arguments = _initial_model(config, data, splits.training)
    # The layout in which convolutions are fastest; values and shapes are the same in any.
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    optimizer = make_optimizer(model, config.optimizer, config.learning_rate, config.weight_decay)
    digests = data.digests(np.concatenate([splits.training, splits.selection]))
    labelled = with_label_noise(data, splits.training, config.label_noise, config.seed)
    guarded = config.adversary.kind != "none"
    most_robust: dict[str, Tensor] = {}
    history: list[dict[str, float]] = []
    state = {"config": asdict(config), "digests": torch.from_numpy(digests.view(np.int64))}
    if resume:
        saved = read_payload(state_path(out), STATE_FORMAT)
        _refuse_other_training(saved, state, state_path(out))
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        history, most_robust = saved["history"], saved["most_robust"]

    def keep_state() -> None:
        parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "history": history}
        write_payload(state_path(out), STATE_FORMAT, {**state, **parts, "most_robust": most_robust})

    keep_state()
    while len(history) < config.epochs and not collapsed(history):
        epoch = len(history)
        for progress in _train_epoch(model, loss, optimizer, config, labelled, splits.training, epoch, device):
            on_progress(progress)
        finished = replace(progress, selection_accuracy=measure_accuracy(model, data, splits.selection))
        if guarded:
            robust = probe_robustness(model, data, splits.selection, config.adversary, config.seed, epoch)
            finished = replace(finished, robust_accuracy=robust)
        history.append({name: getattr(finished, name) for name in HISTORY if getattr(finished, name) is not None})
        if guarded and best_epoch(history) == epoch:
            most_robust = {name: values.clone() for name, values in model.state_dict().items()}
        keep_state()
        on_progress(finished)

    settings = {name: getattr(config, name) for name in RECORDED} | config.adversary.settings
    kept = len(history) - 1
    if collapsed(history):
        kept = best_epoch(history)
        model.load_state_dict(most_robust)
        settings["kept_epoch"] = kept + 1
    checkpoint = Checkpoint(
        architecture=config.architecture,
        arguments=arguments,
        weights={name: values.cpu().contiguous() for name, values in model.state_dict().items()},
        loss=config.loss,
        loss_settings=loss.settings,
        data_source=data.source,
        data_location=absolute_location(data.location),
        classes=data.classes,
        input_shape=data.input_shape,
        splits=splits,
        digests=digests,
        seed=config.seed,
        epochs=len(history),
        settings=settings,
        selection_accuracy=history[kept]["selection_accuracy"],
        test_accuracy=measure_accuracy(model, data, splits.test),
        history=history,
        versions=tool_versions(),
    )
    checkpoint.save(out)
    state_path(out).unlink()
    return checkpoint


def measure_accuracy(model: nn.Module, data: ImageData, rows: NDArray[np.int64]) -> float:
    """Share of the rows, in [0, 1], whose largest logit is that of their label."""
    device = next(model.parameters()).device
    model.eval()
    correct = 0
    with torch.inference_mode():
        for batch in _batches(rows, EVALUATION_BATCH):
            logits: Tensor = model(torch.from_numpy(data.inputs(batch)).to(device))
            correct += int((logits.argmax(dim=1).cpu().numpy() == data.labels[batch]).sum())
    return correct / len(rows)


def one_cycle(progress: float) -> float:
    """Factor of the peak learning rate: up in a straight line, down to 0 along a cosine.

    A plain form of the 1cycle policy (Smith & Topin, arXiv 1708.07120).

    Args:
        progress: Share of the steps that are done, in [0, 1].
    """
    if progress < WARM_UP:
        return progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def warm_up(progress: float, share: float) -> float:
    """Factor of a weight: from 0 in a straight line to 1 over a share of the steps, and then 1.

    Args:
        progress: Share of the steps that are done, in [0, 1].
        share: Length of the rise; 0 for a constant weight.
    """
    return min(1.0, progress / share) if share else 1.0


def make_optimizer(
    model: nn.Module, name: Optimizer, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum 0.9.

    Args:
        model: Whose parameters are trained.
        name: `adamw` or `sgd`.
        learning_rate: Peak of the schedule.
        weight_decay: Decoupled for `adamw`, ℓ2 for `sgd`.
    """
    if name == "adamw":
        return torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=weight_decay)
    return torch.optim.SGD(model.parameters(), learning_rate, momentum=0.9, nesterov=True, weight_decay=weight_decay)


def _train_epoch(
    model: nn.Module,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    config: TrainingConfig,
    data: ImageData,
    rows: NDArray[np.int64],
    epoch: int,
    device: torch.device,
) -> Iterator[Progress]:
    generator = np.random.default_rng([config.seed, epoch])
    steps = math.ceil(len(rows) / config.batch_size)
    total_loss, correct, seen = 0.0, 0, 0
    model.train()
    for step, batch in enumerate(_batches(generator.permutation(rows), config.batch_size), start=1):
        # Half a step on, so that neither the first nor the last step has learning rate 0.
        done = (epoch * steps + step - 0.5) / (config.epochs * steps)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * one_cycle(done)
        if isinstance(loss, DRSL):
            loss.tau_share = warm_up(done, config.tau_warm_up)
        inputs = torch.from_numpy(data.inputs(batch)).to(device)
        labels = torch.from_numpy(data.labels[batch]).to(device)
        inputs = add_noise(augment(inputs, config.augmentation, generator), config.input_noise, generator)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        value, logits = batch_loss(model, loss, inputs, labels, config.adversary, generator, bfloat16=config.bfloat16)
        optimizer.zero_grad()
        torch.autograd.backward(value)
        optimizer.step()

        total_loss += value.item() * len(batch)
        if not math.isfinite(total_loss):
            raise TrainingError(
                f"the loss is no longer finite in epoch {epoch + 1}; lower the learning rate or the weight of the loss"
            )
        correct += int((logits.argmax(dim=1) == labels).sum())
        seen += len(batch)
        yield Progress(epoch + 1, epoch * steps + step, config.epochs * steps, total_loss / seen, correct / seen)


def _batches(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _initial_model(
    config: TrainingConfig, data: ImageData, rows: NDArray[np.int64]
) -> tuple[Classifier, dict[str, Any]]:
    # A few thousand rows give the channel statistics to three digits.
    sample = data.inputs(rows[:: max(1, len(rows) // 5000)])
    arguments = {
        "width": config.width,
        "mean": sample.mean(axis=(0, 2, 3), dtype=np.float64).tolist(),
        "std": np.maximum(sample.std(axis=(0, 2, 3), dtype=np.float64), 1e-3).tolist(),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build_classifier(
            config.architecture, input_shape=data.input_shape, classes=len(data.classes), **arguments
        )
    return model, arguments


def _refuse_other_training(saved: dict[str, Any], state: dict[str, Any], path: Path) -> None:
    before, now = saved["config"], state["config"]
    different = [f"{name} {before.get(name)} → {now[name]}" for name in now if before.get(name) != now[name]]
    if different:
        raise TrainingError(f"{path} was trained with other settings ({', '.join(different)}); resume with the same")
    if not torch.equal(saved["digests"], state["digests"]):
        raise TrainingError(f"{path} was trained on other rows; resume with the same data and seed")
