"""From files and hub data sets to parallel rows that share no sentence with any evaluation set."""
