"""`slap prepare`: from a collection to records, shard by shard."""
