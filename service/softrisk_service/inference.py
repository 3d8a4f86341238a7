"""What becomes of an inference request, whatever carries it: admit, decode, run, encode."""

import time
from dataclasses import dataclass
from typing import Any, Final, Protocol

from softrisk_service.access import Recorded
from softrisk_service.catalogue import ServedVersion
from softrisk_service.codecs.allowance import Allowance
from softrisk_service.codecs.body import JSON, BodyBudget
from softrisk_service.codecs.envelope import Answer, Envelope
from softrisk_service.codecs.media import NPY_TYPE
from softrisk_service.disclosure import Disclosure
from softrisk_service.engine import Engine
from softrisk_service.outcome import Inputs, Rows
from softrisk_service.policy import risk_header
from softrisk_service.settings import Settings

INLINE_BYTES: Final = 128 * 1024
"""Longer JSON is decoded beside the event loop. (The parser holds the interpreter lock, numpy and Pillow do not.)"""
INLINE_VALUES: Final = 4096
"""Answers of more values are written beside it, too."""

RISK_HEADER: Final = "X-Adversarial-Risk"
HEADER_LENGTH: Final = "Inference-Header-Content-Length"


class Call(Protocol):
    """A decoded request, of either protocol."""

    @property
    def inputs(self) -> Inputs:
        """Inputs of the model's shapes."""

    @property
    def limits(self) -> tuple[int, ...]:
        """For each label the largest flagged rank."""


class Codec(Protocol):
    """A module of `softrisk_service.codecs` that speaks a protocol."""

    @property
    def PROTOCOL(self) -> str:
        """Label in the metrics."""

    @property
    def TAKES_FILES(self) -> bool:
        """Whether JSON may hold encoded files."""

    def decode(
        self, envelope: Envelope, body: bytes, served: ServedVersion, allowance: Allowance, disclosure: Disclosure
    ) -> Any:
        """From a body to a call."""

    def encode(self, call: Any, rows: Rows, served: ServedVersion) -> Answer:
        """From a call and its rows to an answer."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a path asks for, and for whom.

    Attributes:
        codec: The protocol.
        name: Model name.
        version: Version, if the path has one.
        disclosure: What the caller may see.
    """

    codec: Codec
    name: str
    version: str | None
    disclosure: Disclosure


class Inference:
    """The steps of an inference request.

    Args:
        settings: Limits and deadline.
        engine: The models.

    Attributes:
        settings: Limits and deadline.
        bodies: What all bodies being received and decoded hold.
    """

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings = settings
        self.bodies = BodyBudget(settings.max_bodies_bytes)
        self._engine = engine

    def admit(self, target: Target, record: Recorded) -> ServedVersion:
        """Find who answers, and refuse what would only wait.

        Raises:
            RequestError: If there is no such model, it is not ready, or its queue is full.
        """
        record.protocol = target.codec.PROTOCOL
        record.served = served = self._engine.find(target.name, target.version)
        served.batcher.check_room()
        return served

    def allowance(self) -> Allowance:
        """What decoding one request may cost."""
        settings = self.settings
        return Allowance(settings.max_instances, settings.max_pixels, settings.max_samples, settings.max_json_bytes)


def decode(target: Target, envelope: Envelope, body: bytes, served: ServedVersion, allowance: Allowance) -> Call:
    """Read a body.

    Args:
        target: What the path asks for.
        envelope: What the headers say about the body.
        body: The body, unpacked.
        served: Who answers.
        allowance: What it may cost.

    Raises:
        RequestError: Whatever is wrong with it.
        ClientGoneError: If nobody waits for it any more.
    """
    start = time.perf_counter()
    call: Call = target.codec.decode(envelope, body, served, allowance, target.disclosure)
    served.metrics.stages["decode"].observe(time.perf_counter() - start)
    return call


def encode(target: Target, call: Call, rows: Rows, served: ServedVersion) -> tuple[Answer, str | None]:
    """Write an answer, and the value of its `RISK_HEADER`, if the caller may see it."""
    start = time.perf_counter()
    answer = target.codec.encode(call, rows, served)
    risk = None
    if target.disclosure == "full":
        risk = risk_header(rows.ranks, rows.labels, call.limits, served.policy.sizes)
    served.metrics.stages["encode"].observe(time.perf_counter() - start)
    return answer, risk


def is_quick(target: Target, envelope: Envelope, body: bytes) -> bool:
    """Whether decoding a body would not hold up the event loop."""
    if envelope.encoding != "identity":
        return False
    if envelope.header_length is not None:
        return envelope.header_length <= INLINE_BYTES
    if len(body) > INLINE_BYTES:
        return False
    if envelope.media != JSON:
        return envelope.media == NPY_TYPE
    # A backslash could hide the letters.
    return not target.codec.TAKES_FILES or (b"\\" not in body and b'"b64"' not in body)


def is_short(inputs: Inputs, served: ServedVersion) -> bool:
    """Whether writing the answer for some inputs would not hold up the event loop."""
    return len(next(iter(inputs.values()))) * served.values_in_a_row <= INLINE_VALUES
