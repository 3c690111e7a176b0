"""What a model says about the moments of a recording: answers with their times in seconds."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Windows(NamedTuple):
    """Overlapping windows of a recording.

    Attributes:
        start: of each window, in seconds.
        end: of each window; that of the last is the recording's.
        embeddings: fp32 unit vectors.
    """

    start: Float[np.ndarray, " w"]
    end: Float[np.ndarray, " w"]
    embeddings: Float[np.ndarray, "w E"]


class Frames(NamedTuple):
    """Dense features of a recording, one for each column of patches (160 ms).

    Attributes:
        start: of each column, in seconds.
        end: of each column; that of the last is the recording's.
        features: fp32, the mean over the patches (bands of frequency) of a column.
    """

    start: Float[np.ndarray, " c"]
    end: Float[np.ndarray, " c"]
    features: Float[np.ndarray, "c D"]


class Scores(NamedTuple):
    """Similarity of each moment of a recording with texts.

    Attributes:
        start: of each column, in seconds.
        end: of each column; that of the last is the recording's.
        scores: cosine, -1 to 1, of the column's embedding with each text.
    """

    start: Float[np.ndarray, " c"]
    end: Float[np.ndarray, " c"]
    scores: Float[np.ndarray, "c m"]


class Captions(NamedTuple):
    """Captions of the windows of a recording.

    Attributes:
        start: of each window, in seconds.
        end: of each window; that of the last is the recording's.
        texts: a caption of each window.
    """

    start: Float[np.ndarray, " w"]
    end: Float[np.ndarray, " w"]
    texts: list[str]
