"""The processes of a run: launching, signals, child processes, ranks."""
