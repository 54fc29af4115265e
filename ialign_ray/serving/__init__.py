"""Aligned models over HTTP: an engine, the models it holds, the API before it, and its deployment by Ray Serve."""
