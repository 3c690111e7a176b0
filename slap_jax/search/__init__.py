"""Finding moments in a folder of recordings by text or by sound."""
