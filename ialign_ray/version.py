"""The package's version: read by the packaging too, and there where a job takes the code along uninstalled."""

__version__ = "0.1.0"
