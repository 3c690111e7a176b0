"""Checks whether an exported model computes what it should."""
