"""Metrics of predictions: each is a vector of bootstrap draws, whose point value is the draw with weights of one."""
