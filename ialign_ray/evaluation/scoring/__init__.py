"""Predictions: suites under prompts, scored by models on workers and stored by row."""
