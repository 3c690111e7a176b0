"""Models on disk: the checkpoints of a run, its best checkpoint, and exported models."""
