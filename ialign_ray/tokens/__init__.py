"""Token ids of prompts and targets, loss masks and batches of similar length."""
