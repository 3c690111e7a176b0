"""Seeds that differ wherever anything that they are derived from differs."""

import hashlib

import numpy as np


def derive_seed(*parts: object) -> int:
    """Returns a 31-bit seed of the parts' texts."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_at(seed: int, place: int) -> np.random.Generator:
    """Returns the generator of one place of a stream: the counterpart of `fold_in` on the host."""
    return np.random.Generator(np.random.Philox(key=[seed, place]))
