"""The models of a repository, loaded: which versions answer, which do not, and why."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import structlog

from softrisk_core.bundle import Bundle, load_bundle
from softrisk_core.errors import BundleError, CalibrationError, SoftriskError
from softrisk_core.manifest import InputSpec, Manifest
from softrisk_core.repository import Repository
from softrisk_service.batcher import Batcher
from softrisk_service.errors import ConfigurationError, NotReadyError, NotServableError, UnknownModelError
from softrisk_service.metrics import Metrics, ModelMetrics
from softrisk_service.policy import Policy
from softrisk_service.runtime import Runtime
from softrisk_service.settings import Settings

State = Literal["loading", "serving", "draining"]

_CHANNELS: Final = {"L": 1, "RGB": 3}

log = structlog.get_logger()


@dataclass(frozen=True)
class ServedVersion:
    """A version that answers requests.

    Attributes:
        manifest: Of its bundle.
        policy: Its decision levels.
        batcher: Where its requests go.
        metrics: Its series.
    """

    manifest: Manifest
    policy: Policy
    batcher: Batcher
    metrics: ModelMetrics

    @property
    def name(self) -> str:
        """Model name."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """Version, as the protocols write it."""
        return str(self.manifest.version)


@dataclass(frozen=True)
class VersionStatus:
    """A line of the readiness report."""

    name: str
    version: str
    ready: bool
    reason: str | None = None
    """Why it is not ready: short, since anybody may read it; the log says all."""


class Engine:
    """All models of a repository.

    A version that cannot be served, for whatever reason, is reported and left out; the others go on. Without a
    version in the request, the highest one that is ready answers.

    Args:
        settings: Where the repository is and how to run it.
        metrics: Where everything is counted.

    Attributes:
        loaded: Set when every version has been tried.
        faults: Why versions are not ready, a line each, in full: for the operator only.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.metrics = metrics
        self.loaded = asyncio.Event()
        self.faults: list[str] = []
        self._settings = settings
        self._state: State = "loading"
        # Versions ascending, so that the last served one is the default.
        self._versions: dict[str, dict[str, ServedVersion | str]] = {}

    async def load(self) -> None:
        """Load and warm up every version of the repository; requests are answered as versions become ready."""
        repository = Repository(self._settings.repository)
        for name in repository.models():
            versions = self._versions.setdefault(name, {})
            # All at once: a lower version must not answer as the default while a higher one is being loaded.
            tried = {str(version): await self._try(repository, name, version) for version in repository.versions(name)}
            versions.update(tried)
        if self._state == "loading":
            self._state = "serving"
        self.metrics.ready.set(self.ready)
        self.loaded.set()
        log.info("loaded", repository=str(repository.folder), ready=self.ready)

    async def close(self) -> None:
        """Refuse what comes, and let running batches end."""
        self.drain()
        for served in self._served():
            await served.batcher.close()

    def drain(self) -> None:
        """Ask for no more traffic: readiness goes off, requests are still answered."""
        self._state = "draining"
        self.metrics.ready.set(0)

    @property
    def ready(self) -> bool:
        """Whether the service wants traffic: everything is loaded, and at least one model answers."""
        return self._state == "serving" and any(True for _ in self._served())

    @property
    def has_nothing_to_serve(self) -> bool:
        """Whether every version has been tried, in vain."""
        return self.loaded.is_set() and not any(True for _ in self._served())

    @property
    def condition(self) -> str:
        """Readiness in words."""
        if self._state == "serving":
            return "serving" if self.ready else "no model is ready"
        return self._state

    def names(self) -> list[str]:
        """All models, ready or not, sorted."""
        return list(self._versions)

    def statuses(self) -> list[VersionStatus]:
        """Every version with its state."""
        return [
            VersionStatus(name, version, True)
            if isinstance(entry, ServedVersion)
            else VersionStatus(name, version, False, entry)
            for name, versions in self._versions.items()
            for version, entry in versions.items()
        ]

    def find(self, name: str, version: str | None = None) -> ServedVersion:
        """The version that answers a request.

        Args:
            name: Model name.
            version: A version, or None for the highest that is ready.

        Raises:
            UnknownModelError: If the repository has no such model or version.
            NotReadyError: If it has, but it is not ready; with the reason.
        """
        versions = self._versions.get(name)
        if versions is None:
            if not self.loaded.is_set():
                raise NotReadyError("the models are still being loaded")
            raise UnknownModelError(f"no model {name[:64]!r}; models: {', '.join(self._versions) or 'none'}")
        if version is not None:
            entry = versions.get(version)
            if entry is None and (versions or self.loaded.is_set()):
                raise UnknownModelError(
                    f"model {name!r} has no version {version[:20]!r}; versions: {', '.join(versions)}"
                )
        else:
            entry = next((e for e in reversed(versions.values()) if isinstance(e, ServedVersion)), None)
            entry = entry or next(reversed(versions.values()), None)
        if isinstance(entry, ServedVersion):
            return entry
        raise NotReadyError(f"model {name!r} is not ready: {entry or 'it is still being loaded'}")

    async def _try(self, repository: Repository, name: str, version: int) -> ServedVersion | str:
        try:
            bundle, policy, runtime = await asyncio.to_thread(self._load, repository, name, version)
        except Exception as error:  # one broken bundle must not take the others down
            expected = isinstance(error, SoftriskError)
            reason = str(error) if expected else f"{type(error).__name__}: {error}"
            log.error("version not ready", model=name, version=version, reason=reason, exc_info=not expected)
            self.faults.append(f"{name} version {version}: {' '.join(reason.split())}")
            self.metrics.model_ready.labels(name, str(version)).set(0)
            return _outward(error)
        metrics = ModelMetrics(self.metrics, bundle.manifest, policy, runtime.provider)
        batcher = Batcher(
            runtime, metrics, max_batch_size=self._settings.max_batch_size, queue_size=self._settings.queue_size
        )
        self.metrics.model_ready.labels(name, str(version)).set(1)
        log.info("version ready", model=name, version=version, provider=runtime.provider)
        return ServedVersion(bundle.manifest, policy, batcher, metrics)

    def _load(self, repository: Repository, name: str, version: int) -> tuple[Bundle, Policy, Runtime]:
        bundle = load_bundle(repository.path(name, version))
        manifest = bundle.manifest
        if (manifest.name, manifest.version) != (name, version):
            raise NotServableError(
                f"{bundle.folder} holds {manifest.name} version {manifest.version}: a bundle cannot be renamed by hand"
            )
        for spec in manifest.inputs:
            _check_image(spec)
        calibration = manifest.calibration
        policy = Policy.of(calibration.n, calibration.alpha, self._settings.alpha_review, self._settings.alpha_reject)
        runtime = Runtime(bundle, self._settings.threads)
        runtime.replay(bundle)
        return bundle, policy, runtime

    def _served(self) -> Iterator[ServedVersion]:
        for versions in self._versions.values():
            for entry in versions.values():
                if isinstance(entry, ServedVersion):
                    yield entry


def _outward(error: Exception) -> str:
    """Why a version is not ready, without paths and texts of this machine."""
    match error:
        case BundleError():
            return "its bundle is damaged or cannot be read; the log says more"
        case CalibrationError():
            return "its calibration cannot serve the decision levels; the log says more"
        case NotServableError():
            return "its graph cannot be served here; the log says more"
        case _:
            return "it could not be loaded; the log says more"


def _check_image(spec: InputSpec) -> None:
    if spec.image is not None and spec.instance_shape != (_CHANNELS[spec.image.mode], *spec.image.size):
        raise NotServableError(
            f"input {spec.name!r} has shape {list(spec.instance_shape)}, but its images are {spec.image.mode} "
            f"of {spec.image.size[0]}×{spec.image.size[1]}"
        )


def check_repository(settings: Settings) -> None:
    """Refuse to start where there is nothing to serve.

    Raises:
        ConfigurationError: If the repository folder is missing, or holds no model, or is one.
    """
    folder = settings.repository
    if not folder.is_dir():
        raise ConfigurationError(f"no model repository at {folder}: name the folder that `softrisk export --out` wrote")
    if Repository(folder).models():
        return
    home = folder.resolve()
    above = folder.parent if folder.name == home.name else home.parent
    if Repository(home.parent).versions(home.name):
        raise ConfigurationError(f"{folder} is a model, not a repository: softrisk serve {above}")
    raise ConfigurationError(f"{folder} holds no model: write one there with softrisk export --out {folder}")
