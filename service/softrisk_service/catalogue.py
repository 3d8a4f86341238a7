"""What is known of the models of a repository: which versions answer, which do not, and why.

Everything here happens in the event loop and in one step: a request finds the old state or the new one. It keeps the
version that it found, which is freed when the last such request has its answer.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import structlog

from softrisk_core.manifest import Manifest
from softrisk_service.batcher import Batcher
from softrisk_service.codecs.memory import Memory
from softrisk_service.errors import NotReadyError, RepositoryError, RequestError, UnknownModelError
from softrisk_service.listing import DEFAULT, Identity, ModelFolder
from softrisk_service.loading import Fault, Loaded
from softrisk_service.metrics import Metrics, ModelMetrics
from softrisk_service.policy import Policy

VersionState = Literal["LOADING", "READY", "UNAVAILABLE"]

_UNLOADED = Fault("it was unloaded", "it was unloaded on request")

log = structlog.get_logger()


@dataclass(frozen=True)
class ServedVersion:
    """A version that answers requests.

    Attributes:
        manifest: Of its bundle.
        policy: Its decision levels.
        batcher: Where its requests go.
        metrics: Its series.
        provider: The execution provider that runs it.
        memory: What codecs have worked out for it.
    """

    manifest: Manifest
    policy: Policy
    batcher: Batcher
    metrics: ModelMetrics
    provider: str
    memory: Memory = field(default_factory=Memory, compare=False, repr=False)

    @cached_property
    def name(self) -> str:
        """Model name."""
        return self.manifest.name

    @cached_property
    def values_in_a_row(self) -> int:
        """Numbers that the answer for one instance may have."""
        return len(self.manifest.outputs) + 2 * len(self.manifest.classes)

    @cached_property
    def version(self) -> str:
        """Version, as the protocols write it."""
        return str(self.manifest.version)


@dataclass(frozen=True)
class VersionStatus:
    """A line of the readiness report."""

    name: str
    version: str
    state: VersionState
    reason: str | None = None
    """Why it is not ready, or why what lies in its folder by now is not: short, since anybody may read it."""
    default: bool = False
    """Whether it answers requests that name no version."""

    @property
    def ready(self) -> bool:
        """Whether it answers requests."""
        return self.state == "READY"


@dataclass
class Version:
    """A version on disk, still to be loaded if there is neither a served version nor a fault.

    Attributes:
        identity: Of its files when they were last loaded, or tried.
        served: What answers.
        fault: Why the files cannot be served; what answers is older then.
    """

    identity: Identity = ()
    served: ServedVersion | None = None
    fault: Fault | None = None


@dataclass
class Model:
    """A model on disk.

    Attributes:
        versions: Ascending.
        limit: The highest version that may be the default.
        complaint: What is wrong with the file that says so.
    """

    versions: dict[int, Version] = field(default_factory=dict)
    # Should that file be unreadable from the start, nothing answers by default: better than a version that somebody
    # rolled back.
    limit: float = 0
    complaint: str | None = None

    @property
    def candidate(self) -> int | None:
        """The version that is the default if it is ready."""
        return max((version for version in self.versions if version <= self.limit), default=None)

    @property
    def default(self) -> ServedVersion | None:
        """The highest version that is ready and may be the default."""
        allowed = [entry.served for version, entry in self.versions.items() if version <= self.limit]
        return next((served for served in reversed(allowed) if served is not None), None)


class Catalogue:
    """All models of a repository.

    Args:
        metrics: Where everything is counted.
        start: Makes a version that answers requests of one that was loaded.

    Attributes:
        models: By name.
    """

    def __init__(self, metrics: Metrics, start: Callable[[Loaded], ServedVersion]) -> None:
        self.models: dict[str, Model] = {}
        self._metrics = metrics
        self._start = start
        # By model and version, None for the default: all that a request costs here is this look-up.
        self._routes: dict[str, dict[str | None, ServedVersion]] = {}

    def __bool__(self) -> bool:
        return bool(self._routes)

    def find(self, name: str, version: str | None) -> ServedVersion | None:
        """The version that answers a request, if one does.

        Args:
            name: Model name.
            version: A version, or None for the default.
        """
        routes = self._routes.get(name)
        return None if routes is None else routes.get(version)

    def served(self) -> list[ServedVersion]:
        """Every version that answers requests."""
        entries = (entry for model in self.models.values() for entry in model.versions.values())
        return [entry.served for entry in entries if entry.served is not None]

    def statuses(self) -> list[VersionStatus]:
        """Every version with its state, by name and version."""
        return [
            _status(name, version, entry, model.default)
            for name, model in sorted(self.models.items())
            for version, entry in model.versions.items()
        ]

    def faults(self) -> list[str]:
        """Why versions are not ready, a line each, in full: for the operator only."""
        return [
            f"{name} version {version}: {' '.join(entry.fault.detail.split())}"
            for name, model in sorted(self.models.items())
            for version, entry in model.versions.items()
            if entry.fault is not None
        ]

    def refusal(self, name: str, version: str | None) -> RequestError:
        """Why `find` finds nothing."""
        model = self.models.get(name)
        if model is None:
            return self.unknown(name)
        if version is None:
            number = model.candidate
            if number is None:
                return NotReadyError(f"model {name!r} has no default: its file {DEFAULT} {model.complaint}")
        elif (number := _number(version)) not in model.versions:
            return _no_version(name, version, model)
        return NotReadyError(f"model {name!r} is not ready: {_reason(model.versions[number])}")

    def unknown(self, name: str) -> UnknownModelError:
        """The refusal of a name that no model has."""
        return UnknownModelError(f"no model {name[:64]!r}; models: {', '.join(sorted(self.models)) or 'none'}")

    def check_servable(self, name: str, version: int | None) -> None:
        """Refuse to make a version the default that cannot be.

        Args:
            name: Of a known model.
            version: None if its file excludes all.

        Raises:
            UnknownModelError: If there is no such version.
            RepositoryError: If what lies in its folder cannot be served; the message says what answers meanwhile.
        """
        model = self.models[name]
        if version is None:
            problem = f"{name} has no default: its file {DEFAULT} {model.complaint}"
        elif version not in model.versions:
            raise _no_version(name, str(version), model)
        elif (fault := model.versions[version].fault) is None:
            return
        else:
            problem = f"{name} version {version} cannot be served: {fault.outward}"
        default = model.default
        still = f"version {default.version} still answers" if default else "no version answers"
        raise RepositoryError(f"{problem}; {still} by default")

    def expect(self, name: str, folder: ModelFolder) -> Model:
        """Take note of what a model's folder holds, before it is loaded."""
        if name not in self.models:
            self.models[name] = Model()
            self._limit(name, self.models[name], folder)
        model = self.models[name]
        added = {version: Version() for version in folder.versions.keys() - model.versions.keys()}
        model.versions = dict(sorted((model.versions | added).items()))
        return model

    def follow(self, name: str, folder: ModelFolder, outcomes: Mapping[int, Loaded | Fault | None]) -> None:
        """Change over to what a model's folder holds.

        Args:
            name: Model name.
            folder: As it was seen, and expected.
            outcomes: What came of loading those versions that were new or changed; None where nothing had changed.
        """
        model = self.models[name]
        for version in model.versions.keys() - folder.versions.keys():
            self._retire(name, version, model.versions.pop(version))
        for version, outcome in outcomes.items():
            entry = model.versions[version]
            entry.identity = folder.versions[version]
            self._settle(name, version, entry, outcome)
        self._limit(name, model, folder)
        self._route(name, model)

    def forget(self, name: str) -> None:
        """Let go of a model that is no longer in the repository."""
        self.follow(name, ModelFolder({}), {})
        del self.models[name]

    def unload(self, name: str) -> None:
        """Let go of a model's versions until they are loaded again."""
        model = self.models[name]
        for version, entry in model.versions.items():
            self._retire(name, version, entry)
            entry.fault = _UNLOADED
        self._route(name, model)

    def _settle(self, name: str, version: int, entry: Version, outcome: Loaded | Fault | None) -> None:
        entry.fault = outcome if isinstance(outcome, Fault) else None
        if isinstance(outcome, Loaded):
            self._retire(name, version, entry)
            entry.served = self._start(outcome)
            log.info("version ready", model=name, version=version, provider=entry.served.provider)
        if outcome is not None:
            result = "ready" if entry.fault is None else "failed"
            self._metrics.model_loads.labels(name, str(version), result).inc()
        self._metrics.model_ready.labels(name, str(version)).set(entry.served is not None)

    def _retire(self, name: str, version: int, entry: Version) -> None:
        self._metrics.model_ready.remove(name, str(version))
        if entry.served is not None:
            entry.served.metrics.retire()
            entry.served = None
            log.info("version retired", model=name, version=version)

    def _limit(self, name: str, model: Model, folder: ModelFolder) -> None:
        complaint = folder.fault
        if complaint is None:
            model.limit = math.inf if folder.default is None else folder.default
            if folder.default is not None and folder.default not in folder.versions:
                complaint = f"names version {folder.default}, which is not there"
        if complaint is not None and complaint != model.complaint:
            log.error("default not usable", model=name, reason=f"the file {DEFAULT} {complaint}")
        model.complaint = complaint

    def _route(self, name: str, model: Model) -> None:
        routes: dict[str | None, ServedVersion] = {
            str(version): entry.served for version, entry in model.versions.items() if entry.served is not None
        }
        before, default = self.find(name, None), model.default
        if default is not None:
            routes[None] = default
            self._metrics.default_version.labels(name).set(default.manifest.version)
        elif before is not None:
            self._metrics.default_version.remove(name)
        if routes:
            self._routes[name] = routes
        else:
            self._routes.pop(name, None)
        if before is not None and before is not default:
            log.info("default changed", model=name, before=before.version, version=default.version if default else None)


def _status(name: str, version: int, entry: Version, default: ServedVersion | None) -> VersionStatus:
    state: VersionState = "LOADING" if entry.fault is None else "UNAVAILABLE"
    if entry.served is not None:
        state = "READY"
    return VersionStatus(
        name, str(version), state, _reason(entry), entry.served is not None and entry.served is default
    )


def _reason(entry: Version) -> str | None:
    """What is to be said of a version, if there is something."""
    if entry.served is None:
        return entry.fault.outward if entry.fault else "it is still being loaded"
    return (
        f"its folder was changed, and what is there now is not served: {entry.fault.outward}" if entry.fault else None
    )


def _number(version: str) -> int:
    """A version by how the protocols write it; 0, which no version has, if it is none."""
    return int(version) if re.fullmatch(r"[1-9][0-9]{0,17}", version) else 0


def _no_version(name: str, version: str, model: Model) -> UnknownModelError:
    known = ", ".join(map(str, model.versions))
    return UnknownModelError(f"model {name!r} has no version {version[:20]!r}; versions: {known}")
