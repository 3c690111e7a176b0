"""`slap data check`: what is missing or odd about a collection, before hours are spent."""
