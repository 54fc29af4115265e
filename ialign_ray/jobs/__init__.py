"""Steps of an experiment as jobs of a Ray cluster: the job itself, and submitting, following and stopping it."""
