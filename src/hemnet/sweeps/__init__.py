"""Sweeps: many runs, each in its own process and directory, whose name says what the run changes."""
