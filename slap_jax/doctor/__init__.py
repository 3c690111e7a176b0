"""Whether an exported model still is what was trained: probe sounds and texts go in, findings come out."""
