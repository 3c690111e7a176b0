"""The checks of `launch/preflight.py`, each a function that returns findings."""
