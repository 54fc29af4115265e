"""The command line: arguments, one workflow each, and what is printed."""
