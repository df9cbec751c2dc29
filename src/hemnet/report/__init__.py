"""What experiments found: reports from run directories, and the W&B dashboard."""
