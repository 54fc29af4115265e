"""Parallel rows from files and hub data sets, without any sentence of an evaluation set."""
