"""What is done with a trained network: evaluation, prediction, export, cost. The commands are its doors."""
