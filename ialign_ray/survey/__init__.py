"""Survey of a base model over many languages, before any training and without labels."""
