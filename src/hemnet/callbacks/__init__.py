"""Lightning callbacks: what a run shows and records beside its metrics."""
