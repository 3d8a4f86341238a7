"""The other workers, as one of them sees them: by way of the supervisor."""

import asyncio
from contextlib import suppress
from typing import Any

from prometheus_client import CollectorRegistry

from softrisk_service import errors
from softrisk_service.channel import Channel
from softrisk_service.engine import Engine, Wanted
from softrisk_service.exposition import Snapshot, snapshot


class Siblings:
    """What a worker does together with the others.

    Args:
        channel: To the supervisor.
        registry: Of this worker's metrics.
        engine: Its models.
    """

    def __init__(self, channel: Channel, registry: CollectorRegistry, engine: Engine) -> None:
        self._prepared = asyncio.Event()
        self._channel = channel
        self._registry = registry
        self._engine = engine
        channel.offer("snapshot", self._snapshot)
        channel.offer("obey", self._obey)

    async def prepare(self, unloaded: list[str]) -> None:
        """Wait until the models are loaded, and report.

        Args:
            unloaded: Models that were unloaded on request, and so are not served here either.
        """
        await self._engine.loaded.wait()
        with suppress(errors.ChannelClosedError):
            if self._engine.has_nothing_to_serve:
                await self._channel.call("nothing to serve", self._engine.faults)  # which ends this process
            for name in unloaded:
                with suppress(errors.UnknownModelError):  # its folder may be gone by now
                    await self._engine.unload_model(name)
            self._prepared.set()
            await self._channel.call("loaded")

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """As `exposition.Scrape`, of all workers together."""
        text, content_type = await self._channel.call("scrape", accept)
        return text.encode(), content_type

    async def load_model(self, name: str, version: Wanted | None = None) -> None:
        """As `Engine.load_model`, in all workers; raises what the first of those raised where it failed."""
        await self._order("load_model", name, version)

    async def unload_model(self, name: str) -> None:
        """As `Engine.unload_model`, in all workers; raises what the first of those raised where it failed."""
        await self._order("unload_model", name)

    async def _snapshot(self, _: None) -> Snapshot:
        return snapshot(self._registry)

    async def _order(self, *order: Any) -> None:
        if refusal := await self._channel.call("order", order):
            name, message = refusal
            raise getattr(errors, name)(message)

    async def _obey(self, order: list[Any]) -> tuple[str, str] | None:
        """Do what one of the workers was asked to have done by all, once the models are as they were assigned."""
        await self._prepared.wait()
        method, *arguments = order
        try:
            await getattr(self._engine, method)(*arguments)
        except errors.RequestError as error:
            return type(error).__name__, str(error)
        return None
