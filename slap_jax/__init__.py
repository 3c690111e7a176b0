"""slap_jax: language-audio pretraining on packed audio of any duration (SLAP, arXiv 2601.12594), in JAX."""

__version__ = "0.1.0"
