"""The HTTP API: OpenAI's routes, and translation, classification and scoring in the same style. Without Ray."""

from ialign_ray.serving.api.app import build_app
from ialign_ray.serving.keys import KeyEntry, KeyFollower, KeyRing, add_key, check_exposure, keys_of, new_key
from ialign_ray.serving.ledger import KeyLedger, LocalCounter, SharedCounter

__all__ = [
    "KeyEntry",
    "KeyFollower",
    "KeyLedger",
    "KeyRing",
    "LocalCounter",
    "SharedCounter",
    "add_key",
    "build_app",
    "check_exposure",
    "keys_of",
    "new_key",
]
