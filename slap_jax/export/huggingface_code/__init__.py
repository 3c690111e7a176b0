"""Files that an exported Hugging Face folder holds beside `slap_torch.py`; they run there, not here."""
