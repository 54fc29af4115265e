"""`ialign doctor`: versions and resources of this machine, and open ports of Ray."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import version

from rich.console import Console

from ialign_ray.cluster.local import check_token_file
from ialign_ray.cluster.ports import exposure, ray_listeners
from ialign_ray.errors import IalignError
from ialign_ray.storage import cache_folder
from ialign_ray.terminal import BlockTable, say

SHOWN = ("ialign_ray", "ray", "torch", "transformers", "peft", "datasets", "pydantic", "mlflow")


def doctor(console: Console) -> list[str]:
    """Print versions, resources and every open port of Ray; print and return warnings."""
    import psutil
    import torch

    say(console, f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in SHOWN))
    memory = psutil.virtual_memory()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["no GPU"]
    cpus = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count()
    cache = cache_folder()
    kept = next(folder for folder in (cache, *cache.parents) if folder.exists())
    say(
        console,
        f"{cpus} CPUs, {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB memory free, {', '.join(gpus)}",
        f"Cache {cache}: {shutil.disk_usage(kept).free / 2**30:.1f} GiB free on its disk",
    )
    found = ray_listeners()
    if found:
        rows = [
            (
                each.process,
                str(each.pid),
                f"{each.address} {each.port}",
                "other machines" if each.exposed else "this machine",
            )
            for each in found
        ]
        console.print(BlockTable(("Ray process", "pid", "listens on", "reached from"), rows))
    else:
        say(console, "No Ray of yours runs here")
    warnings = [text for text in (exposure(), _token_warning()) if text]
    say(console, *(f"warning: {text}" for text in warnings))
    return warnings


def _token_warning() -> str | None:
    try:
        check_token_file()
    except IalignError as error:
        return str(error)
    return None
