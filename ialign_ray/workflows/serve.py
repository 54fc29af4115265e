"""`ialign serve`: models over HTTP, from their names to a URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from ialign_ray.config import ScalingConfig
from ialign_ray.config.serve import ServeConfig
from ialign_ray.serving.deployment import running
from ialign_ray.serving.model_sources import Named, locate_all
from ialign_ray.training.pocket import ensure_base


@contextmanager
def serve(
    settings: ServeConfig,
    registry: str,
    scaling: ScalingConfig,
    console: Console,
    *,
    show_log: bool = True,
    replace: bool = False,
) -> Iterator[tuple[str, list[Named]]]:
    """Serve `settings.models` while the body runs; yield the URL and the models.

    Names are resolved before anything is started, and a pocket base is trained on first use. `replace` shuts down what
    an earlier attempt left running. Raises IalignError.
    """
    found = locate_all(settings.models, registry)
    for named in found:
        ensure_base(named.source.settings.id, console)
    console.print("Starting Ray and loading the models", highlight=False)
    with running(settings, registry, scaling, show_log=show_log, replace=replace) as url:
        yield url, found
