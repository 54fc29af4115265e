"""Metrics of predictions: each a bootstrap draw, of which the point value is the one with weights of one."""
