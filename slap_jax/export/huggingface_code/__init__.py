"""Files of an exported Hugging Face folder, next to `slap_torch.py`; they run there, not here."""
