"""Sweeps: many runs, each in its own process and directory; the directory's name says what the run changes."""
