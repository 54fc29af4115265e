"""One of each: a corpus format, an alignment task, a metric, a kind of suite and a training objective."""
