"""What training and evaluation compute: the LightningModule, loss, schedule, metrics, inference."""
