"""The checks of `launch/preflight.py`: functions that return findings."""
