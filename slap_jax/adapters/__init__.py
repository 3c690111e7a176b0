"""An export in the forms that benchmarks of audio models ask for: HEAR, X-ARES and mteb."""
