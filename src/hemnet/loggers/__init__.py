"""Where metrics go: metrics.csv, and Weights & Biases."""

# Variables by which a W&B agent assigns its run to a process that it starts; they hold for one run only.
AGENT = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")
STEP = "trainer/global_step"
"""The metric against which W&B draws all others."""
ITERATION = "em/iteration"
"""The metric against which W&B draws what is logged per iteration of EM, at the end of training."""
