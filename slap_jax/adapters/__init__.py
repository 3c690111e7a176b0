"""Exported models behind the interfaces of audio benchmarks: HEAR, X-ARES and mteb."""
