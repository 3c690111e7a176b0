"""From records to the packed batches of training."""
