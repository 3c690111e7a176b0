"""The same training with one part changed at a time, over several seeds, and the table of what that does."""

# The baseline, then what the paper leaves out, then our own questions.
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
