"""Audio tower, text tower, pooling and caption decoder; pure functions and Flax NNX modules."""
