"""The training loop (plain torch), its checkpoints, and Ray Train around it."""
