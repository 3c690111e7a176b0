"""`slap stats`: what a mixture holds, and how full its rows will be."""
