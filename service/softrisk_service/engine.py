"""The models of a repository, loaded and kept in step with it: at intervals, on request, or not at all."""

import asyncio
from typing import Literal

import structlog

from softrisk_core.repository import Repository
from softrisk_service.batcher import Batcher, QueueLimits
from softrisk_service.catalogue import Catalogue, ServedVersion, VersionStatus
from softrisk_service.errors import NotReadyError, RepositoryError
from softrisk_service.lane import Lane
from softrisk_service.listing import ModelFolder, look, write_default
from softrisk_service.loading import Fault, Loaded, load
from softrisk_service.metrics import Metrics, ModelMetrics
from softrisk_service.settings import Settings

State = Literal["loading", "serving", "draining"]

Wanted = int | Literal["latest"]
"""A version, or whichever is the highest."""

log = structlog.get_logger()


class Engine:
    """All models of a repository.

    A version that cannot be served, for whatever reason, is reported and left out; the others go on.

    Args:
        settings: Where the repository is and how to run it.
        metrics: Where everything is counted.

    Attributes:
        loaded: Set when every version has been tried.
        has_nothing_to_serve: Whether they were all tried in vain.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.metrics = metrics
        self.loaded = asyncio.Event()
        self.has_nothing_to_serve = False
        self._settings = settings
        self._repository = Repository(settings.repository)
        self._lane = Lane()
        self._catalogue = Catalogue(metrics, self._start)
        self._state: State = "loading"
        self._changing = asyncio.Lock()
        self._polling: asyncio.Task[None] | None = None
        self._complaint: str | None = None

    async def load(self) -> None:
        """Load and warm up every version of the repository, then follow it if the settings say so.

        Requests are answered as models become ready.
        """
        await self.refresh()
        if self._state == "loading":
            self._state = "serving"
        self.metrics.ready.set(self.ready)
        self.has_nothing_to_serve = not self._catalogue
        self.loaded.set()
        log.info("loaded", repository=str(self._repository.folder), ready=self.ready)
        if self._settings.repository_mode == "poll":
            self._polling = asyncio.create_task(self._poll())

    async def close(self) -> None:
        """Refuse what comes, and let running batches end."""
        self.drain()
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.wait([self._polling])
        for served in self._catalogue.served():
            served.batcher.close()
        await asyncio.to_thread(self._lane.close)

    def drain(self) -> None:
        """Ask for no more traffic: readiness goes off, requests are still answered."""
        self._state = "draining"
        self.metrics.ready.set(0)

    @property
    def ready(self) -> bool:
        """Whether the service wants traffic: everything is loaded, and at least one model answers."""
        return self._state == "serving" and bool(self._catalogue)

    @property
    def condition(self) -> str:
        """Readiness in words."""
        if self._state == "serving":
            return "serving" if self.ready else "no model is ready"
        return self._state

    @property
    def takes_orders(self) -> bool:
        """Whether models are loaded and unloaded on request."""
        return self._settings.repository_mode == "explicit"

    @property
    def faults(self) -> list[str]:
        """Why versions, or the whole repository, are not ready, a line each, in full: for the operator only."""
        return [*([self._complaint] if self._complaint else []), *self._catalogue.faults()]

    def names(self) -> list[str]:
        """All models, ready or not, sorted."""
        return sorted(self._catalogue.models)

    def statuses(self) -> list[VersionStatus]:
        """Every version that was loaded, or tried, with its state."""
        return self._catalogue.statuses()

    def find(self, name: str, version: str | None = None) -> ServedVersion:
        """The version that answers a request.

        Args:
            name: Model name.
            version: A version, or None for the default: the highest that is ready and that the model's folder allows
                to be it.

        Raises:
            UnknownModelError: If the repository has no such model or version.
            NotReadyError: If it has, but it is not ready; with the reason.
        """
        served = self._catalogue.find(name, version)
        if served is not None:
            return served
        if name not in self._catalogue.models and not self.loaded.is_set():
            raise NotReadyError("the models are still being loaded")
        raise self._catalogue.refusal(name, version)

    async def refresh(self) -> None:
        """Bring what is served in step with the repository; a version that failed is tried again if it changed."""
        async with self._changing:
            try:
                found = await asyncio.to_thread(look, self._repository)
            except RepositoryError as error:
                self._complain(str(error))
                return
            if not found and self._catalogue:
                # A volume that is not mounted any more looks like this, and takes nothing down.
                self._complain("the repository is empty; what was loaded before is still served")
                return
            self._complain(None)
            for name in self._catalogue.models.keys() - found.keys():
                self._catalogue.forget(name)
            for name, folder in found.items():
                await self._follow(name, folder, retry=False)
            self.metrics.ready.set(self.ready)

    async def index(self) -> list[VersionStatus]:
        """Every version in the repository with its state, those among them that nobody has asked to load.

        Raises:
            RepositoryError: If the repository cannot be read.
        """
        statuses = {(status.name, int(status.version)): status for status in self.statuses()}
        for name, folder in (await asyncio.to_thread(look, self._repository)).items():
            for version in folder.versions:
                unknown = VersionStatus(name, str(version), "UNAVAILABLE", "it is not loaded")
                statuses.setdefault((name, version), unknown)
        return [statuses[key] for key in sorted(statuses)]

    async def load_model(self, name: str, version: Wanted | None = None) -> None:
        """Bring one model in step with the repository; versions that failed are tried again.

        Args:
            name: Model name.
            version: Becomes the default, for good: it is written into the repository. None to leave it at what the
                repository says.

        Raises:
            UnknownModelError: If the repository has no such model or version.
            RepositoryError: If the version that should be the default cannot be served, or the repository cannot be
                read or written; what answered before still does.
        """
        catalogue = self._catalogue
        async with self._changing:
            folder = (await asyncio.to_thread(look, self._repository)).get(name)
            if folder is None:
                raise catalogue.unknown(name)
            await self._follow(name, folder, retry=True)
            self.metrics.ready.set(self.ready)
            if version is None:
                catalogue.check_servable(name, catalogue.models[name].candidate)
                return
            limit = None if version == "latest" else version
            catalogue.check_servable(name, limit or max(folder.versions))
            await asyncio.to_thread(write_default, self._repository, name, limit)
            catalogue.follow(name, ModelFolder(folder.versions, limit), {})

    async def unload_model(self, name: str) -> None:
        """Answer no more requests for a model, until it is loaded again or the server starts anew.

        Raises:
            UnknownModelError: If there is no such model.
        """
        async with self._changing:
            if name not in self._catalogue.models:
                raise self._catalogue.unknown(name)
            self._catalogue.unload(name)
            self.metrics.ready.set(self.ready)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._settings.poll_seconds)
            try:
                await self.refresh()
            except Exception:  # the next look may find it mended
                self.metrics.internal_errors.inc()
                log.exception("the repository could not be followed")

    async def _follow(self, name: str, folder: ModelFolder, retry: bool) -> None:
        """Load what is new in a model's folder, then change over to what it holds.

        All versions at once: a lower one must not become the default for the time that a higher one takes to load.
        """
        model = self._catalogue.expect(name, folder)
        outcomes: dict[int, Loaded | Fault | None] = {}
        for version, identity in folder.versions.items():
            entry = model.versions[version]
            if entry.identity != identity or (retry and entry.fault is not None):
                path = self._repository.folder / name / str(version)
                current = None if entry.served is None else entry.served.manifest
                outcomes[version] = await asyncio.to_thread(load, path, self._settings, current)
        self._catalogue.follow(name, folder, outcomes)

    def _start(self, loaded: Loaded) -> ServedVersion:
        manifest, policy, runtime = loaded.manifest, loaded.policy, loaded.runtime
        metrics = ModelMetrics(self.metrics, manifest, policy, runtime.provider)
        settings = self._settings
        limits = QueueLimits(settings.queue_size, settings.max_bodies_bytes, settings.deadline_seconds)
        batcher = Batcher(runtime, metrics, specs=manifest.inputs, lane=self._lane, limits=limits)
        return ServedVersion(manifest, policy, batcher, metrics, runtime.provider)

    def _complain(self, complaint: str | None) -> None:
        if complaint is not None and complaint != self._complaint:
            log.error("repository not usable", reason=complaint)
        self._complaint = complaint
