"""The model registry (MLflow): register a finished run, gate and promote it, roll back, resolve a reference."""
