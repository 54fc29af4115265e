"""What was gained, for whom, what was lost, and whether it is luck."""
