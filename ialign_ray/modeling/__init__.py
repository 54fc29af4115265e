"""Models: load, adapt, save, and run the output head only where it is needed."""
