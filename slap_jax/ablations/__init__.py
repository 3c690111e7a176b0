"""Trains variants of a config that differ in one part, over several seeds, and tabulates their effect."""

# The baseline, the ablations of the paper, and our own.
VARIANTS = (
    "full",
    "no_distillation",
    "no_captioning",
    "contrastive_only",
    "all_global",
    "window_in_frames",
    "sigmoid",
    "shared_view",
)
