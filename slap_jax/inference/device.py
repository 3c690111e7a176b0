"""Chooses a device of JAX by its name."""

from typing import Any

import jax

from slap_jax.errors import UserError


class DeviceError(UserError, ValueError):
    """A device that does not exist on this machine."""


def choose_device(name: str) -> Any:
    """Returns a device of this process.

    Args:
        name: a platform of JAX, such as "cpu", "gpu" or "tpu", for its first device; or a platform and an index, such
            as "gpu:1".

    Raises:
        DeviceError: JAX has no such device here.
    """
    platform, colon, index = name.partition(":") if isinstance(name, str) else ("", "", "")
    if platform and (not colon or index.isdecimal()):
        try:
            devices = jax.local_devices(backend=platform)
        except RuntimeError:  # the platform is unknown, or not installed
            devices = []
        if int(index or 0) < len(devices):
            return devices[int(index or 0)]
    names = ", ".join(f"{device.platform}:{device.local_hardware_id or 0}" for device in jax.local_devices())
    raise DeviceError(
        f"device is {name!r}, which JAX does not have here; it has {names}: write one of them, or install JAX for the "
        "device, for example pip install 'slap-jax[cuda12]'"
    )
