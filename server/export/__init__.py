"""Model export: a run's model folder, ONNX, MONAI bundle, model card."""
