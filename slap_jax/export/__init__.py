"""Other forms of an exported model: StableHLO, PyTorch, ONNX and transformers; and its model card."""
