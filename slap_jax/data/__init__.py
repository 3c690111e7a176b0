"""From manifests of captioned audio to packed batches."""
