import jax.numpy as jnp
import numpy as np
import pytest

from slap_jax.config.defaults import default_config
from slap_jax.data.audio import to_int16
from slap_jax.data.inspect.measure import log_mel
from slap_jax.data.packing import Clip, pack_rows
from slap_jax.models import frontend
from tests.data.tiny_data import tone

AUDIO = default_config().audio


@pytest.mark.parametrize("samples", [1, 2_560, 2_561, 16_000])
def test_frames_are_those_that_the_model_sees(samples):
    waveform = to_int16(tone(1.0)[:samples])
    batch, _ = pack_rows([Clip(waveform, [], 0), Clip(np.full(3_000, 9_000, np.int16), [], 1)], 16, 2, 1, 2_560)
    expected = np.asarray(frontend.log_mel(jnp.asarray(batch.waveform), jnp.asarray(batch.audio_segment_ids), AUDIO))
    host = log_mel(waveform, AUDIO)
    np.testing.assert_allclose(host, expected[0, : -(-samples // 2_560)].reshape(len(host), -1), atol=1e-4)
