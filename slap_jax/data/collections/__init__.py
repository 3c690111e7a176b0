"""Collections of clips as they are found: manifests, folders, tars, tables; listed without decoding audio."""
