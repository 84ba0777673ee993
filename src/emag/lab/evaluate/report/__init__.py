"""The report of a run, one HTML page, and the blind votes between two of its recipes."""
