"""Scoring and generation with a causal or encoder-decoder model; pure torch, no Ray."""
