"""Scoring a model: retrieval, zero-shot classification, confidence intervals."""
