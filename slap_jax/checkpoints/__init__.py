"""What lies on disk: the checkpoints of a run, its best step, and exported model directories."""
