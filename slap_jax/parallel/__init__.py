"""Devices: the mesh, which parameter lies where on it, and the processes that share it."""
