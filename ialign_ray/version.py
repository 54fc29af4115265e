"""The package's version, also read by the packaging and by jobs that run the code without installing it."""

__version__ = "0.1.0"
