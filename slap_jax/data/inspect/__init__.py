"""`slap data check`: what is missing or odd about a collection, before hours are spent.

`slap stats`: what a mixture holds, and how full its rows will be.
"""
