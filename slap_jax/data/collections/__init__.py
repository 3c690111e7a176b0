"""Manifests, folders, tars and tables, listed as streams of clips without decoding audio."""
