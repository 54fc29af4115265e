"""The engine on transformers and torch: one model, its adapters, one batch.

It exists in addition to transformers' continuous batching (`ContinuousBatchingManager`), which has no adapters, no seed
per request, no encoder-decoders and no alternatives of a token; label scoring here shares a prompt's pass between
labels. Its purpose is not speed. Tokens per second against transformers' batching (one CPU thread, 1, 8 and 32
clients): x1.2, x0.87 and x1.11 on the pocket model, x0.75, x0.74 and x0.68 at 100M parameters, since transformers reads
prompts without padding, in the pass that also writes tokens. Over HTTP the two are level (x0.92 to x1.22). Eight
adapters in a batch keep 79 to 91 % of one adapter's speed. `docs/serving.md` has the tables; for large models on a GPU
there is `serve.engine: vllm`.
"""

from ialign_ray.serving.engine.engine import TransformersEngine, open_engine

__all__ = ["TransformersEngine", "open_engine"]
