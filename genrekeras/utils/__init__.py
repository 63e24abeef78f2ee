"""File input and output, progress messages, process settings and log filters."""
