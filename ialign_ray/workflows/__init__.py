"""Workflows of the commands, from an experiment to its result: called by the command line, by jobs and from Python."""
