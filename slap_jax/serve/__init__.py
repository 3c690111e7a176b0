"""An HTTP service of a model."""
