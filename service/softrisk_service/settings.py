"""What an operator can set: by `SOFTRISK_…` environment variables, and by flags, which override them."""

import sys
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Alpha = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Device = Literal["auto", "cpu", "cuda", "tensorrt"]
RepositoryMode = Literal["poll", "explicit", "none"]


class Settings(BaseSettings):
    """Settings of the server."""

    model_config = SettingsConfigDict(
        env_prefix="SOFTRISK_", use_attribute_docstrings=True, extra="forbid", frozen=True, allow_inf_nan=False
    )

    repository: Path = Path("models")
    """Folder of bundles, <repository>/<model>/<version>."""
    repository_mode: RepositoryMode = "poll"
    """poll: follow the repository; explicit: change what is served by requests to /v2/repository only, which anyone who
    reaches the port may send, or with keys those with full disclosure; none: keep what was loaded at start."""
    poll_seconds: Seconds = 5.0
    """Time from one look at the repository to the next, with repository_mode poll."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all interfaces."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 for any free one."""

    keys: Path | None = None
    """File of API keys, as `softrisk keys add` makes it: then each caller needs one, and sees what it allows. By
    default callers on this machine see everything, and all others coarse answers."""

    alpha_review: Alpha | None = None
    """False-alarm rate of the decision `review`; by default the one of each bundle."""
    alpha_reject: Alpha | None = None
    """False-alarm rate of the decision `reject`; by default a tenth of alpha_review, but at least 1/(n+1)."""

    max_batch_size: Count = 64
    """Most instances in one run of a model; what pays off up to there is measured when the model is loaded."""
    queue_size: Count = 4096
    """Most instances waiting for a model, or fewer if they would wait longer than half of the deadline; beyond it
    requests are answered 429."""
    max_instances: Count = 1024
    """Most instances in one request; beyond it 413."""
    max_pixels: Count = 25_000_000
    """Most pixels of all images in one request, each as stored or as resized, whichever is more; beyond it 413."""
    max_samples: Count = 25_000_000
    """Most samples of all recordings in one request, each as many as the model takes; beyond it 413."""
    max_body_bytes: Count = 16 * 1024 * 1024
    """Longest request body; beyond it 413."""
    max_json_bytes: Count = 4 * 1024 * 1024
    """Longest JSON body, if less: no other request is served while it is parsed; beyond it 413."""
    max_bodies_bytes: Count = 128 * 1024 * 1024
    """Most bytes of bodies being received and decoded, of all requests together, and of inputs waiting for a model;
    beyond it 429."""
    deadline_seconds: Seconds = 10.0
    """Longest time for a body to arrive, beyond it 408, and from there to the answer, beyond it 504."""
    workers: Count = 1
    """Processes that serve, each with models and limits of its own; several need Linux, and pay for models of
    microseconds."""
    device: Device = "auto"
    """Where models run: cpu, cuda, tensorrt, or auto for CUDA where onnxruntime has it, else the CPU."""
    threads: Count | None = None
    """Threads onnxruntime computes with in each process; by default one for models of microseconds, and for others the
    process's share of the cores that may be used."""

    drain_seconds: Annotated[float, Field(ge=0)] = 1.0
    """Time from SIGTERM, when readiness goes off, to closing the sockets: load balancers notice meanwhile."""
    shutdown_seconds: Seconds = 30.0
    """Longest time given to requests in flight after that."""

    log_level: Annotated[str, Field(pattern=r"^(debug|info|warning|error)$")] = "info"
    """Least severe log line that is written: debug, info, warning or error."""
    access_log: bool = True
    """Write one line for each request (those for health and metrics at level debug)."""
    console_logs: bool | None = None
    """Logs for people, or one JSON object a line; by default for people where standard output is a terminal."""

    @field_validator("workers")
    @classmethod
    def _several_workers_share_a_port(cls, workers: int) -> int:
        if workers > 1 and sys.platform != "linux":
            raise ValueError("several processes share a port evenly on Linux only")
        return workers

    @model_validator(mode="after")
    def _levels_are_ordered(self) -> Self:
        if self.alpha_review is not None and self.alpha_reject is not None and self.alpha_reject > self.alpha_review:
            raise ValueError(f"alpha_reject = {self.alpha_reject} must not exceed alpha_review = {self.alpha_review}")
        return self

    @model_validator(mode="after")
    def _one_body_fits_among_the_bodies(self) -> Self:
        if self.max_body_bytes > self.max_bodies_bytes:
            raise ValueError(
                f"max_body_bytes = {self.max_body_bytes} must not exceed max_bodies_bytes = {self.max_bodies_bytes}: "
                "such a body could never be admitted"
            )
        return self

    @model_validator(mode="after")
    def _one_request_fits_the_queue(self) -> Self:
        if self.max_instances > self.queue_size:
            raise ValueError(
                f"max_instances = {self.max_instances} must not exceed queue_size = {self.queue_size}: "
                "such a request could never be admitted"
            )
        return self
