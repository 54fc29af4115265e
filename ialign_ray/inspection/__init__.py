"""Inspection of a built corpus: counts, lengths, dropped and suspicious texts, tokens; on a terminal and as a page."""
