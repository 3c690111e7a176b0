"""TFDS builders that write data sets as records of the one schema."""
