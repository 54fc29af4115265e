"""Search and sorting of a long table by a script in the page; without scripts the whole table is shown."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

from markupsafe import Markup


@cache
def finder_script() -> tuple[Markup, str]:
    """The script, and its SHA-256 as the page's security policy names it."""
    script = files("ialign_ray.pages").joinpath("finder.js").read_text("utf-8")
    return Markup(script), base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
