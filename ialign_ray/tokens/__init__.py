"""From prompts and targets to token ids, a loss mask and batches of similar length."""
