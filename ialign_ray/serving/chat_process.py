"""A process that renders chat templates: run as a file, it imports nothing of this package, and serves one parent.

A model's template is code of the model's author. Jinja's sandbox isolates it from the system, but does not stop endless
loops or texts; this process has limits for both, and can be killed.
"""

from __future__ import annotations

import json
import resource
import sys
from multiprocessing.connection import Connection

MEMORY = 256 * 2**20
"""Bytes beyond those of the imports."""


def main(fd: int) -> None:
    """Answer each request of the parent until it closes the connection."""
    parent = Connection(fd)
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    _limit_memory()
    parent.send_bytes(b"{}")
    while True:
        try:
            asked = json.loads(parent.recv_bytes())
        except EOFError:
            return
        # if the parent is gone by then, nothing else ends a template that loops
        spent = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(spent.ru_utime + spent.ru_stime + asked["seconds"]) + 2
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
        try:
            found, _ = render_jinja_template(
                [asked["turns"]],
                chat_template=asked["template"],
                add_generation_prompt=asked["generation"],
                **asked["variables"],
            )
            answer = {"text": found[0]} if len(found[0]) <= asked["most"] else {"error": "TooLong"}
        except (MemoryError, RecursionError, OverflowError) as error:
            answer = {"error": type(error).__name__}
        except TemplateError as error:
            # exactly this class is raised by `raise_exception` of a template, for a conversation that it does not
            # accept
            answer = {"error": "Refused" if type(error) is TemplateError else type(error).__name__}
        except Exception as error:  # whatever a template's expressions raise
            answer = {"error": type(error).__name__}
        parent.send_bytes(json.dumps(answer).encode())


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - pathlib is one more import
            pages = int(file.read().split()[0])
    except OSError:  # not on Linux: time and length are limited anyway
        return
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    main(int(sys.argv[1]))
