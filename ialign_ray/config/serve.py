"""`serve`: the deployment of `ialign serve` and the Ray Serve application files."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ialign_ray.config.base import Section


class LimitsConfig(Section):
    """Limits of one request, one key and one replica."""

    body_bytes: int = Field(1_000_000, ge=1000)
    """Largest request body."""
    prompt_tokens: int | None = Field(None, ge=1)
    """Longest prompt; the model's context length if omitted."""
    new_tokens: int = Field(1024, ge=1)
    """Largest `max_tokens`."""
    default_new_tokens: int = Field(256, ge=1)
    """`max_tokens` of a request that omits it."""
    texts: int = Field(64, ge=1)
    """Most prompts, texts or choices (`n`) of one request."""
    labels: int = Field(64, ge=2)
    """Most labels of one classification."""
    exemplars: int = Field(64, ge=1)
    """Most exemplars, or pairs, in the `context` of one request."""
    context_chars: int = Field(20_000, ge=100)
    """Most characters of all of them together."""
    queue: int = Field(256, ge=1)
    """Requests that wait or run in one replica; more are answered 429. Several keys share it."""
    timeout_s: float = Field(120, gt=0)
    """Seconds until an unfinished request is answered 504, or its stream ended with an error."""
    body_s: float = Field(10, gt=0)
    """Seconds until a body that has not arrived is answered 408; it is not queued before it has arrived."""
    bodies: int = Field(256, ge=1)
    """Bodies that arrive at once in one replica; more are answered 429."""
    without_counts: Literal["share", "refuse"] = "share"
    """Policy while the ledger that counts the keys' limits for all replicas does not answer: `share` lets each replica
    count on its own, up to its share of each limit; `refuse` answers 503."""


class ServeConfig(Section):
    """Models, engine and operation of one deployment."""

    models: list[str] = Field(default_factory=lambda: ["champion"], min_length=1)
    """Registry references (`champion`, `NAME@ALIAS`, `NAME/3`), run folders, model folders or hub ids to serve; the
    first answers requests that name none. The base of each is served too, as `base` for the first."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """`vllm` needs GPUs and `ray.serve.llm`."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 accepts requests from anywhere, so set keys first."""
    port: int = Field(8000, ge=0, le=65535)
    """HTTP port; 0 picks a free one."""
    keys: str | None = None
    """YAML file of API keys (`ialign serve keys` makes one); without it `IALIGN_API_KEYS` in the environment is read,
    and without either no key is required, which is allowed on 127.0.0.1 only."""
    max_adapters: int = Field(8, ge=1)
    """Adapters in a replica's memory; the least recently used one is evicted."""
    max_batch: int = Field(32, ge=1)
    """Requests decoded together."""
    max_batch_tokens: int = Field(16_384, ge=64)
    """Tokens of keys and values held for running requests, and of one prefill."""
    follow_s: float = Field(5.0, gt=0)
    """Seconds between checks of the registry for an alias that has moved; a key file is read twice as often."""
    load_s: float = Field(900.0, gt=0)
    """Seconds in which a model must load; otherwise it is refused, and the previous version is still served."""
    replicas: tuple[int, int] = (1, 1)
    """Fewest and most replicas; between them Ray Serve scales by running requests."""
    cpus_per_replica: float = Field(1.0, ge=0)
    """CPUs that a replica reserves."""
    gpus_per_replica: float = Field(0.0, ge=0)
    """GPUs that a replica reserves; with a fraction, several share one."""
    drain_s: float = Field(30.0, gt=0)
    """Seconds that running requests get to finish when a replica is shut down."""
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    """Limits of sizes and times."""
