"""The command line: each command parses its arguments, runs one workflow and prints the result."""
