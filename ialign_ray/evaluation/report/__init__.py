"""The report: tables, Markdown, and one HTML page that needs nothing else."""
