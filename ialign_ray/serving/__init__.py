"""Aligned models over HTTP: an engine, the models in it, the API in front of it, and its deployment with Ray Serve."""
