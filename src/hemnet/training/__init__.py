"""The computations of training and evaluation: LightningModule, loss, schedule, metrics, inference."""
