"""Checkpoints as files for other projects: safetensors with a model card, ONNX, torch.export."""
