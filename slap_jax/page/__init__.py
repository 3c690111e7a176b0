"""A page in the browser for trying a model."""
