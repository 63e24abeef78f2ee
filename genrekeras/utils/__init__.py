"""Files, progress messages, process settings and log filters."""
