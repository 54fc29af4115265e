"""Files and hub data sets made into parallel rows that share no sentence with any evaluation set."""
