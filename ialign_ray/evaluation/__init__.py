"""Evaluation: gains and losses by language, and whether they exceed chance."""
