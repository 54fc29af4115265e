"""Steps of an experiment as jobs of a Ray cluster: what runs there, and how it is sent, followed and stopped."""
