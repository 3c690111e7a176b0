"""Commands that inspect data: `slap data check` before preparation, `slap stats` and `slap data show` after it."""
