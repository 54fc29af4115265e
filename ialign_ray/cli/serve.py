"""`ialign serve`: models over HTTP on this machine, and `ialign serve keys`, which creates API keys."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from ialign_ray.cli.options import RegistryOption, console, load

if TYPE_CHECKING:
    from ialign_ray.config.serve import ServeConfig
    from ialign_ray.serving.model_sources import Named


class ServeCommands(typer.core.TyperGroup):
    """Commands of `ialign serve`; `run` is the default if the first word is not a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert `run` before arguments that do not begin with a command."""
        return super().parse_args(ctx, args if args[:1] and args[0] in self.commands else ["run", *args])


serve = typer.Typer(name="serve", cls=ServeCommands, help="Serve models over HTTP, or create API keys.")


@serve.command()
def run(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="Experiment file with a `serve` section. Default: the defaults of `serve`.", show_default=False
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Model to serve: `champion`, `mine@champion`, `mine/3`, a run, folder or hub id. May be repeated.",
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="HTTP port; 0 picks a free one. Default: 8000.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="Override a field, e.g. `--set serve.max_adapters=4`.")
    ] = None,
    registry: RegistryOption = None,
    trial: Annotated[
        bool, typer.Option("--try", help="Send one request of each kind, print the answers, and exit.")
    ] = False,
) -> None:
    """Serve models over HTTP until Ctrl-C or SIGTERM: OpenAI's routes, translation, classification.

    Create API keys with `ialign serve keys NAME`.

    Example: `ialign serve --model champion`

    Example: `ialign serve jobs/experiments/pocket.yaml --model champion --port 9000`
    """
    from ialign_ray.config import ScalingConfig
    from ialign_ray.config.load import serve_settings
    from ialign_ray.workflows.promote import DEFAULT_REGISTRY
    from ialign_ray.workflows.serve import serve

    given = {"serve.models": model or None, "serve.host": host, "serve.port": port}
    changes = [
        *(overrides or []),
        *(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in given.items() if v is not None),
    ]
    experiment = load(file, changes) if file else None
    settings = experiment.served if experiment else serve_settings(changes)
    where = registry or (experiment.tracking_uri if experiment else DEFAULT_REGISTRY)
    scaling = experiment.scaling if experiment else ScalingConfig()
    # with --try the access log would hide the few answers
    with serve(settings, where, scaling, console, show_log=not trial) as (url, found), _stopping() as asked:
        _ready(url, settings, found)
        if trial:
            _try(url, found)
        else:
            console.print("Stop with Ctrl-C.")
            asked.wait()
        console.print("Stopping: running requests are finished, new ones are refused", highlight=False)


@serve.command()
def keys(
    name: Annotated[str, typer.Argument(help="Name of the key's owner, shown in the access log.", show_default=False)],
    file: Annotated[
        Path, typer.Option(help="Key file, as named by `serve.keys`; created if it does not exist.")
    ] = Path("keys.yaml"),
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Model that the key may use. May be repeated. Default: all."),
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Limit of requests. Default: none.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="Limit of tokens. Default: none.")] = None,
) -> None:
    """Create an API key and print it once; the file keeps only its hash.

    Example: `ialign serve keys alice --requests-per-minute 60`
    """
    from ialign_ray.serving.api import add_key, new_key

    secret, entry = new_key(
        name, models=model or None, requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute
    )
    add_key(file, entry)
    console.print(
        f"{secret}\nThe key is shown once; {file} keeps its hash. Serve with it:  ialign serve --set serve.keys={file}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def _ready(url: str, settings: ServeConfig, found: list[Named]) -> None:
    from ialign_ray.serving.api import keys_of
    from ialign_ray.serving.examples import curl_lines

    names = ", ".join(n.name if n.name == n.source.id else f"{n.name} ({n.source.id})" for n in found)
    lines = [f"Ready at {url}: {names}, base", "", "Try:"]
    lines += curl_lines(url, [named.info() for named in found], keys_of(settings) is not None)
    console.print("\n".join([*lines, ""]), soft_wrap=True, highlight=False, markup=False)


def _try(url: str, found: list[Named]) -> None:
    from ialign_ray.serving.examples import try_requests

    console.print("Answers:")
    for line in try_requests(url, [named.info() for named in found]):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or SIGTERM sets; a second one stops at once."""
    asked = threading.Event()
    before: dict[int, Any] = {}

    def ask(*_: Any) -> None:
        asked.set()
        for number, handler in before.items():
            signal.signal(number, handler)

    before |= {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
