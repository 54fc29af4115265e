"""The training loop (plain torch), its checkpoints, and the Ray Train workers that run it."""
