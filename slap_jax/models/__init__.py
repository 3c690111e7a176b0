"""The front end, the towers, the caption decoder and the heads, as pure functions and Flax NNX modules."""
