"""A run's model for others: its folder, ONNX, MONAI bundle, model card."""
