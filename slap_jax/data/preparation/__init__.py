"""`slap prepare`: from a collection of clips to record shards."""
