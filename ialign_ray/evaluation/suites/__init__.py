"""Suites as rows: files of evaluation data, by language."""
