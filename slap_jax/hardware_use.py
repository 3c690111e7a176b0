"""How well a run uses its devices: MFU, the part of it that each part of the model has, and the factors it is made of.

    MFU = useful share x (1 - share of the time spent waiting for data) x share of the peak while computing

`slap_jax.flops` says what counts as useful.
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

from slap_jax.config import patches_per_column
from slap_jax.flops import train_step_parts

_WITH_PADDING = "with_padding"


class HardwareUse:
    """FLOPs of steps, and metrics from their rates."""

    def __init__(self, config: ConfigDict, peak_flops: float):
        """Remembers sizes.

        Args:
            config: the whole configuration.
            peak_flops: FLOPs per second that all devices could do.
        """
        self._config = config
        self._peak = peak_flops

    def flops(self, values: Mapping[str, float]) -> dict[str, float]:
        """Returns the FLOPs of one step: `flops/<part>` for every part, and `flops/with_padding` for all together.

        With padding means that the rows hold as many tokens as fit and every slot a clip, which is what matrix products
        compute. Attention inside padding is left out: kernels can skip it.

        Args:
            values: metrics of the step.
        """
        data = self._config.data
        full = {
            "clips": data.rows * data.slots,
            "audio_tokens": data.rows * data.columns * patches_per_column(self._config.audio),
            "text_tokens": data.rows * data.text_tokens,
        }
        parts = train_step_parts(self._config, values)
        with_padding = sum(train_step_parts(self._config, {**values, **full}).values())
        return {f"flops/{part}": count for part, count in parts.items()} | {f"flops/{_WITH_PADDING}": with_padding}

    def metrics(self, read: Mapping[str, float]) -> dict[str, float]:
        """Puts MFU, its parts and its factors in the place of the rates of `flops`.

        Args:
            read: of `Speed.read`; {} gives {}.
        """
        prefix, suffix = "speed/flops/", "_per_s"
        rates = {name[len(prefix) : -len(suffix)]: rate for name, rate in read.items() if name.startswith(prefix)}
        if not rates:
            return dict(read)
        with_padding = rates.pop(_WITH_PADDING)
        useful = sum(rates.values())
        computing = 1 - read["time/data"] / read["time/step"]
        return {
            **{name: value for name, value in read.items() if not name.startswith(prefix)},
            "speed/flops_per_s": useful,
            "speed/mfu": useful / self._peak,
            **{f"mfu/{part}": rate / self._peak for part, rate in rates.items()},
            "speed/useful_share": useful / with_padding,
            "speed/peak_share": with_padding / self._peak / max(computing, 1e-9),
        }
