"""The theme of all figures, and packed rows drawn; matplotlib is imported only when something is drawn."""
