"""Results: cells, comparisons, forgetting, transfer and the verdict."""
