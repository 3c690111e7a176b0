"""Devices: the mesh, the sharding of parameters over it, and the processes that share it."""
