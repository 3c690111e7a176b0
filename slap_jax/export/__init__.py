"""Writing a trained model to files, and reading it."""
