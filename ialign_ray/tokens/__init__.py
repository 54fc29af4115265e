"""Prompts and targets made into token ids, a loss mask and batches of similar length."""
