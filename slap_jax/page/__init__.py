"""The page in the browser on which a person tries a model."""
