"""Alignment tasks, their noise and wording, the replay pool and the mixture."""
