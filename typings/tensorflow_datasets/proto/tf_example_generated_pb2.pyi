# The module makes its classes when it is imported, where pyright cannot see them.
from typing import Any

class Example:
    features: Any

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...
    @staticmethod
    def FromString(data: bytes) -> Example: ...
