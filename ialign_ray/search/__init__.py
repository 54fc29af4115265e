"""Forgetting-aware search: the space, the objective, cheap trials on Ray Tune, and the winner."""
