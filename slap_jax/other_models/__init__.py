"""Models of other families behind the protocol of `slap_jax.inference.protocol`."""
