"""The processes of a run: launching them, signals, child processes, ranks."""
