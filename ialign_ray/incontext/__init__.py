"""Cross-lingual in-context learning: exemplars, translation pairs and words that go into a prompt.

No model is needed to find them, and each question finds the same on every machine.
"""
