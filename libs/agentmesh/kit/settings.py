"""Say which settings exist, what they mean and which values are sane, apart from where values come from."""

import math
import re
import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, SecretStr, ValidationInfo, field_validator

from agentmesh.kit.limit_settings import Limits, Retention
from agentmesh.kit.machine import cpu_count
from agentmesh.kit.model_settings import Llm
from agentmesh.kit.service_settings import Services
from agentmesh.kit.setting_types import (
    Count,
    DatabaseUrl,
    FileSwitch,
    Host,
    Level,
    Name,
    OtlpUrl,
    Paths,
    Port,
    RedisUrl,
    Seconds,
    Section,
)


class Database(Section):
    """The store's database; the pool keys apply to PostgreSQL only."""

    url: DatabaseUrl | None = None
    """`sqlite:///./file.db` or `postgresql://…`; without it, a SQLite file in `data_dir`."""
    echo: bool = False
    """Log each statement, never its values; repetitions once a minute, with their number."""
    create_tables: bool = False
    """Apply missing migrations when storage starts; otherwise only `agentmesh migrate` does."""
    pool_size: Count = 20
    """Connections of one storage process; with max_overflow, the most it takes. Idle ones are closed."""
    max_overflow: Annotated[int, Field(ge=0, le=1_000_000)] = 30
    """Connections beyond pool_size under load."""
    pool_timeout: Seconds = 30
    """Seconds to wait for a free connection."""
    pool_recycle: Seconds = 3600
    """Seconds after which a connection is replaced."""
    allow_embedded: bool = False
    """Let environment `production` run on SQLite: one storage process, one machine."""

    @property
    def is_embedded(self) -> bool:
        """Whether the database is a SQLite file that storage opens itself."""
        return self.url is None or self.url.get_secret_value().startswith("sqlite:")


class Cache(Section):
    """Where answers are cached and limits are counted."""

    backend: Literal["memory", "redis"] = "memory"
    """Each process for itself, or Redis for all of them; Redis then carries news between storages, too."""
    url: RedisUrl | None = None
    """`redis://…`, over TLS `rediss://…`; needed for backend redis."""
    pool_size: Count = 10
    """Connections to Redis that a process has for each of its uses, at most."""
    ttl: Seconds = 300
    """Seconds an entry lives."""
    max_bytes: Annotated[int, Field(ge=0, le=1_099_511_627_776)] = 67_108_864
    """Held by each llm-proxy itself; 0 leaves it without."""

    @field_validator("url")
    @classmethod
    def _redis_has_an_address(cls, url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if info.data.get("backend") == "redis" and url is None:
            raise ValueError("is needed for backend redis; set it or REDIS_URL")
        return url


class Logging(Section):
    """What is logged, where to and in which form."""

    level: Level = "INFO"
    """What is less important is not logged."""
    console: bool = True
    """Write to stderr."""
    file: FileSwitch = False
    """True for a file per service in `logs` of `data_dir`, or the path of the file."""
    structured: bool = False
    """Write JSON whatever `format` says."""
    format: Literal["text", "json"] = "text"
    """Lines for people, or one JSON object each."""
    max_bytes: Annotated[int, Field(ge=0, le=1_099_511_627_776)] = 104_857_600
    """A file that would grow beyond it is put aside under a number, and begun anew; 0 lets it grow."""
    backups: Annotated[int, Field(ge=0, le=1000)] = 5
    """Files that are kept so; older ones are removed."""
    queue_max_bytes: Annotated[int, Field(ge=65_536, le=1_073_741_824)] = 4_194_304
    """Lines that wait to be written, for each place; what does not fit is dropped and counted."""


class Api(Section):
    """The HTTP edge; host and port are the same as those of `services.gateway`."""

    host: Host = "127.0.0.1"
    """Where to listen; `0.0.0.0` for every network."""
    port: Port = 8000
    """0 lets the system choose."""
    reload: bool = False
    """Let `up` start the gateway again when its code or the configuration file changes."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that share the port and one page of metrics; more than one on Linux and macOS only."""
    worker_class: Literal["uvicorn.workers.UvicornWorker", "uvicorn"] = "uvicorn.workers.UvicornWorker"
    """Both names mean the same: uvicorn is what workers run, and there is no other."""
    max_requests: Annotated[int, Field(ge=0)] = 0
    """Requests after which a worker is replaced; 0 means never. It cuts nothing: answers that have begun end first."""
    max_requests_jitter: Annotated[int, Field(ge=0)] = 0
    """At most so many requests are added to max_requests at random, so that workers don't leave together."""


class ApiKey(Section):
    """A client's credential: the digest of its key, and whose it is."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """In lower-case hexadecimal; the key itself is written nowhere."""
    tenant: Name
    """Whose tasks, artifacts and budgets it is for."""
    scopes: frozenset[Literal["read", "write", "models"]] = frozenset(("read", "write", "models"))
    """What it may do: see tasks, schedules and artifacts; submit and change them; ask models through the gateway."""


class Security(Section):
    """Which guards stand before public methods; internal services always demand their token.

    Unless told otherwise, `development` has authentication and authorization off and reflection on.
    """

    authentication: bool = True
    """Demand a credential of clients; without, whoever shows none is the tenant `default`."""
    authorization: bool = True
    """Hold clients to the scopes of their key."""
    rate_limiting: bool = True
    """Hold tenants to `limits.*.submits_per_s`."""
    input_validation: bool = True
    """Hold a task's parameters against its agent's schema before it is accepted; the contract's bounds hold always."""
    reflection: bool = False
    """Tell clients which services and messages there are."""
    api_keys: tuple[ApiKey, ...] = ()
    """What clients may show as bearer token."""


class Monitoring(Section):
    """What a service shows of itself."""

    metrics: bool = True
    """Serve `/metrics` at each service's `metrics_port`."""
    tracing: bool = False
    """Send spans over OTLP (gRPC)."""
    otlp_endpoint: OtlpUrl | None = None
    """By default what OTEL_EXPORTER_OTLP_ENDPOINT says, else http://localhost:4317."""
    sampling_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Of the traces that are to be recorded by their own flag, so many are; the same ones in every service."""
    span_queue: Count = 4096
    """Spans that wait to be sent; more are dropped and counted."""
    record_content: bool = False
    """Write prompts and answers, up to 16,000 characters each, into spans; needs tracing."""
    health_checks: bool = True
    """Ask dependencies whether they are there; without, a service is ready as soon as it listens."""
    alerts: bool = True
    """Measure what only the alert rules need: queue age and length, disk, memory."""

    @field_validator("record_content")
    @classmethod
    def _content_has_somewhere_to_go(cls, record_content: bool, info: ValidationInfo) -> bool:
        if record_content and not info.data.get("tracing", True):
            raise ValueError("has no effect without tracing")
        return record_content


class Runner(Section):
    """How much one runner does at once, and how it keeps its lease."""

    name: Name = Field(default_factory=lambda: _host_name())
    """By default the machine's name; runners that live at the same time need different ones."""
    slots: Count = 256
    """Inline tasks at once."""
    hosts: Annotated[int, Field(ge=1, le=4096)] = Field(default_factory=cpu_count)
    """Host processes at most; by default one for each CPU that the container may use."""
    agents: Paths = ()
    """Files and folders with agents, beside the installed ones."""
    llm_retries_per_call: Annotated[float, Field(ge=0, le=2)] = 0.1
    """Retries that this runner affords for each model call, on average over all; one call is tried 3 times at most."""
    lease_ttl_s: Seconds = 15
    """Without renewal for so long, a runner stops its agents; by default `tasks.lease_ttl_s`, never more."""
    heartbeat_s: Seconds = 5
    """Between renewals; at most half of lease_ttl_s."""

    @field_validator("heartbeat_s")
    @classmethod
    def _one_heartbeat_may_be_lost(cls, heartbeat_s: float, info: ValidationInfo) -> float:
        if heartbeat_s * 2 > info.data.get("lease_ttl_s", math.inf):
            raise ValueError("must be at most half of lease_ttl_s")
        return heartbeat_s


def _host_name() -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()).strip(".-")[:128] or "runner"


class Tasks(Section):
    """What a task gets that doesn't ask for something else, and the router's bounds."""

    default_timeout_s: Seconds = 3600
    """For a task that names no timeout; over all its attempts."""
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """Failures after which a task is FAILED."""
    initial_backoff_s: Seconds = 1
    """The wait after the first failure; doubled after each other one."""
    max_backoff_s: Seconds = 60
    """The longest wait between two attempts."""
    lease_ttl_s: Seconds = 15
    """After so long without renewal a runner's tasks are given to another."""
    queue_limit: Count = 10_000
    """Tasks of one tenant that wait for a slot; more are refused. See `limits` for single tenants."""
    accept_timeout_s: Annotated[float, Field(gt=0, le=60)] = 0.8
    """How long a submit waits for its commit before it is told that storage does not answer."""


class Settings(Section):
    """Everything a process of the mesh is told, complete and unchangeable; made by `config.load`."""

    environment: str = "development"
    debug: bool = False
    """Log from DEBUG on, unless `logging.level` says otherwise, and hear libraries from INFO on."""
    hot_reload: bool = False
    """Let `up` start the runner again when the code of its agents changes."""
    auto_restart: bool = True
    """Whether `up` restarts a service that died."""
    data_dir: Path = Path(".agentmesh")
    """Relative to the working directory, as every path here."""
    insecure_dev: bool = False
    """Allow listening beyond loopback without TLS and authentication."""
    drain_delay_s: Annotated[float, Field(ge=0, le=600)] = 0
    """After SIGTERM, how long a router or gateway says that it is not ready before it takes nothing new: as long as
    proxies and load balancers need to notice."""
    drain_timeout_s: Seconds = 30
    """How long running calls may go on after SIGTERM."""
    database: Database = Database()
    cache: Cache = Cache()
    logging: Logging = Logging()
    api: Api = Api()
    security: Security = Security()
    monitoring: Monitoring = Monitoring()
    services: Services = Services()
    runner: Runner = Runner()
    tasks: Tasks = Tasks()
    limits: Limits = Limits()
    retention: Retention = Retention()
    llm: Llm = Llm()

    _source: object = PrivateAttr(None)
    """What `config.load` made them from; None for settings that came from nowhere."""
