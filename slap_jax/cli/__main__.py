"""`python -m slap_jax.cli`: the `slap` command where its script is not on the path."""

import sys

from slap_jax.cli import main

sys.exit(main())
