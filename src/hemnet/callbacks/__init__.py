"""Lightning callbacks: checkpoints, safeguards, progress, and what a run records besides its scores."""
