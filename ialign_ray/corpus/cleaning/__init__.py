"""Steps that parallel text goes through before it is trained on.

`make_step` makes one of its settings; what a step is stands in `step`.
"""

from __future__ import annotations

from ialign_ray.corpus.cleaning.steps import make_step, version_of

__all__ = ["make_step", "version_of"]
