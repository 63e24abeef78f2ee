"""Utilities for files, progress messages, process settings and log messages."""
