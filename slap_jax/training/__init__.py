"""One training step and what surrounds it in the loop: state, optimiser, metrics, timing, diagnostics."""
