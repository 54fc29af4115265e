"""The engine on transformers and torch: one model, its adapters, one batch."""

from ialign_ray.serving.engine.engine import TransformersEngine, open_engine

__all__ = ["TransformersEngine", "open_engine"]
