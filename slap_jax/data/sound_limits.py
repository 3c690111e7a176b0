"""The sample rates and numbers of channels that are supported: a damaged header may state any."""

from slap_jax.data.audio_error import AudioError

MAX_CHANNELS = 64
# Below 1 kHz nothing would be left of a sound, and resampling would need any amount of memory. Ultrasound is recorded
# at up to 1 MHz.
SAMPLE_RATES = (1_000, 1_000_000)


def check_rate(rate: int, name: str) -> None:
    """Raises `AudioError` if a sample rate is outside `SAMPLE_RATES`."""
    low, high = SAMPLE_RATES
    if not low <= rate <= high:
        raise AudioError(
            f"{name} has a sample rate of {rate} Hz; expected {low} to {high} Hz: correct its header, or leave it out",
            "bad_sample_rate",
        )


def check_channels(channels: int, name: str) -> None:
    """Raises `AudioError` if there are more channels than `MAX_CHANNELS`."""
    if channels > MAX_CHANNELS:
        raise AudioError(
            f"{name} has {channels} channels; expected at most {MAX_CHANNELS}: correct its header, or leave it out",
            "too_many_channels",
        )
