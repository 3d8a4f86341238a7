"""One `model.onnx` in onnxruntime: proof that it repeats its bundle, what its runs cost here, and the runs."""

import time
from collections.abc import Callable
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from softrisk_core.bundle import Bundle
from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_core.manifest import FEATURES, OUTPUTS
from softrisk_core.presence import find_cases
from softrisk_core.radius import radius
from softrisk_core.scores.evidence import Evidence, observe
from softrisk_core.scores.score import FeatureScore, Score
from softrisk_service.errors import NotServableError
from softrisk_service.outcome import Inputs, Outputs
from softrisk_service.plan import INLINE_SECONDS, INLINE_SECONDS_OF_SEVERAL, LONE_SECONDS, measure
from softrisk_service.sessions import CPU, open_session, usable_cores
from softrisk_service.settings import Settings

_SHARED_SECONDS: Final = 300e-6
"""A run of one instance that takes less is not shared by several threads: they would mostly wait for each other."""

_TRIALS: Final = 20
"""Most runs for one measured time."""
_TRIAL_SECONDS: Final = 0.02
"""Most time for it, but at least one run."""

_COMPARED: Final = ("logits", "probabilities", *DIAGNOSTICS)
_RANKED: Final = ("rank", "flagged")
_INTEGERS: Final = frozenset({"label", "rank", "flagged"})
_FLOATS: Final = tuple(name for name in OUTPUTS if name not in _INTEGERS)

log = structlog.get_logger()


class Runtime:
    """A loaded graph, warmed up and measured.

    Args:
        bundle: Whose graph.
        settings: Where it runs, in how many threads, and in which batches at most. Unless the number of threads is
            set, a graph whose runs are too short to be shared has one.

    Attributes:
        provider: The execution provider that runs it.
        plan: How to run it.

    Raises:
        NotServableError: If onnxruntime does not load it, its inputs and outputs are not those of the manifest, or
            it does not repeat the bundle's golden outputs.
        BundleError: If `golden.npz` cannot be read.
    """

    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        self._outputs = bundle.manifest.outputs
        golden = self._golden(bundle)
        self._session, reused = open_session(bundle, settings.device, settings.threads or 1)
        try:
            self._prove(bundle, settings, golden, reuse=True)
        except NotServableError:
            if not reused:
                raise
            log.warning("an optimised graph does not repeat its bundle, it is made anew", bundle=str(bundle.folder))
            self._session, _ = open_session(bundle, settings.device, settings.threads or 1, reuse=False)
            self._prove(bundle, settings, golden, reuse=False)
        inline_seconds = INLINE_SECONDS if settings.workers == 1 else INLINE_SECONDS_OF_SEVERAL
        lone_seconds = LONE_SECONDS
        if self.provider != CPU:
            inline_seconds = lone_seconds = 0.0  # the event loop would only wait for it
        most = settings.max_batch_size
        self.plan = measure(lambda size: self._seconds(golden, size), most, inline_seconds, lone_seconds)

    def _prove(self, bundle: Bundle, settings: Settings, golden: Inputs, reuse: bool) -> None:
        """Give it all cores if its runs are long enough, and hold it against its bundle."""
        self.provider: str = self._session.get_providers()[0]
        self._check_signature(bundle)
        cores = max(1, usable_cores() // settings.workers)
        if (
            settings.threads is None
            and cores > 1
            and self.provider == CPU
            and self._seconds(golden, 1) > _SHARED_SECONDS
        ):
            self._session, _ = open_session(bundle, settings.device, cores, reuse=reuse)
        self._replay(bundle)

    def _check_signature(self, bundle: Bundle) -> None:
        wanted = {spec.name for spec in bundle.manifest.inputs}
        found = {node.name for node in self._session.get_inputs()}
        if wanted != found:
            raise NotServableError(f"the graph's inputs are {sorted(found)}, the manifest's {sorted(wanted)}")
        if missing := set(self._outputs) - {node.name for node in self._session.get_outputs()}:
            raise NotServableError(f"the graph lacks the outputs {sorted(missing)}")

    def run(self, inputs: Inputs) -> Outputs:
        """Run one batch; onnxruntime releases the interpreter lock meanwhile.

        Args:
            inputs: By name, each (B, …) float32.

        Returns:
            Every one of the manifest's outputs by name, each (B,) or (B, C).
        """
        return dict(zip(self._outputs, self._session.run(self._outputs, inputs), strict=True))

    def _golden(self, bundle: Bundle) -> dict[str, NDArray[np.float32]]:
        inputs, outputs = bundle.golden()
        wanted = {spec.name for spec in bundle.manifest.inputs}
        if missing := (wanted - set(inputs)) | (set(self._outputs) - set(outputs)):
            raise NotServableError(f"golden.npz lacks {sorted(missing)}")
        return inputs

    def _seconds(self, golden: Inputs, size: int) -> float:
        """Shortest of a few runs: what else the machine does can only add."""
        inputs = {name: np.resize(rows, (size, *rows.shape[1:])) for name, rows in golden.items()}
        shortest = float("inf")
        begin = time.perf_counter()
        for _ in range(_TRIALS):
            start = time.perf_counter()
            self._try(inputs)
            end = time.perf_counter()
            shortest = min(shortest, end - start)
            if end - begin > _TRIAL_SECONDS:
                break
        return shortest

    def _try(self, inputs: Inputs) -> Outputs:
        try:
            return self.run(inputs)
        except Exception as error:
            raise NotServableError(f"the graph fails on its golden inputs on {self.provider}: {error}") from error

    def _replay(self, bundle: Bundle) -> None:
        """Compare what comes out of the bundle's golden inputs with what the bundle recorded.

        Floats must agree within the manifest's tolerance. Ranks and flags must be the same wherever the score is
        the same to the last bit; elsewhere the rank may differ as the score does.

        Raises:
            NotServableError: If they do not agree, naming the output and the distance.
        """
        inputs, expected = bundle.golden()
        tolerance = bundle.manifest.parity.tolerance
        actual = self._try(inputs)
        for name in self._outputs:
            if actual[name].shape != expected[name].shape:
                raise NotServableError(f"output {name} has shape {actual[name].shape}, not {expected[name].shape}")
        for name in _COMPARED:
            difference = np.abs(actual[name].astype(np.float64) - expected[name])
            allowed = tolerance.absolute + tolerance.relative * np.abs(expected[name])
            if not (difference <= allowed).all():
                raise NotServableError(
                    f"golden replay on {self.provider}: {name} differs by up to {difference.max():.3g}, more "
                    f"than {tolerance.absolute:g} + {tolerance.relative:g}·|value|; export the model again, or "
                    "calibrate it on this provider"
                )
        score = bundle.score()
        difference, allowed = score.compare(actual["nonconformity"], self._evidence(score, inputs))
        if not (difference <= allowed).all():
            raise NotServableError(
                f"golden replay on {self.provider}: nonconformity is up to {difference.max():.3g} from what "
                f"{bundle.manifest.nonconformity.score} is for these logits; export the model again"
            )
        same_logits = (actual["logits"] == expected["logits"]).all(axis=1)
        same_score = actual["nonconformity"] == expected["nonconformity"]
        for names, rows in ((("label",), same_logits), (_RANKED, same_score)):
            for name in names:
                if not np.array_equal(actual[name][rows], expected[name][rows]):
                    raise NotServableError(f"golden replay on {self.provider}: {name} is not the one recorded")
        self._check_radii(bundle, inputs, actual)

    def _check_radii(self, bundle: Bundle, inputs: Inputs, actual: Outputs) -> None:
        """Hold radii against their formula, on rows that have every input: one that is larger proves nothing."""
        manifest, tolerance, facts = bundle.manifest, bundle.manifest.parity.tolerance, bundle.manifest.radius
        if facts is None:
            return
        changed: list[tuple[NDArray[np.float64], float]] = []
        for kind, constants in bundle.lipschitz().items():
            rounding = facts.rounding if kind == "certified" else 0.0
            changed += [(slopes, rounding) for slopes in (constants, *(constants if len(constants) > 1 else ()))]
        whole = find_cases(inputs, {spec.name: spec.optional for spec in manifest.inputs}) == 0
        for name, (slopes, rounding) in zip(facts.outputs, changed, strict=True):
            found, expected = actual[name][whole], radius(actual["logits"][whole], slopes, rounding)
            least = expected * (1 - tolerance.relative) - tolerance.absolute
            if not ((least <= found) & (found <= expected)).all():
                raise NotServableError(
                    f"golden replay on {self.provider}: {name} is not what the Lipschitz constants give for these "
                    "logits; export the model again"
                )

    def _evidence(self, score: Score, inputs: Inputs) -> Evidence:
        """What the graph answers here."""
        entry = next(iter(inputs))

        def output(name: str) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
            return lambda rows: self._session.run([name], {**inputs, entry: rows})[0]

        features = output(FEATURES) if isinstance(score, FeatureScore) else None
        return observe(output("logits"), inputs[entry], score.probes, features)


def finite_rows(outputs: Outputs) -> NDArray[np.bool_] | None:
    """Which rows hold no NaN or infinity; None if all are finite, the usual case, found in one pass.

    Args:
        outputs: As from `Runtime.run`.

    Returns:
        Shape (B,), or None.
    """
    rows = len(outputs["logits"])
    floats = _FLOATS if len(outputs) == len(OUTPUTS) else tuple(name for name in outputs if name not in _INTEGERS)
    if np.isfinite(np.concatenate([outputs[name].ravel() for name in floats])).all():
        return None
    finite = np.ones(rows, np.bool_)
    for name in floats:
        finite &= np.isfinite(outputs[name].reshape(rows, -1)).all(axis=1)
    return finite
