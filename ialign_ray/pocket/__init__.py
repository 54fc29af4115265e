"""The embedded default: a corpus that the project generates itself and a small model trained on it."""

from ialign_ray.pocket.locate import POCKET, pocket_file

__all__ = ["POCKET", "pocket_file"]
