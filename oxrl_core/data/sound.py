"""WAV files as samples."""

from __future__ import annotations

import io
import wave

import numpy as np

from oxrl_core.errors import DataError
from oxrl_core.types import Media


def read_audio(media: Media, rate: int) -> np.ndarray:
    """The samples of a WAV file as float32 in [-1, 1], one channel, at `rate` a second."""
    try:
        with wave.open(io.BytesIO(media.data) if media.data else media.path, "rb") as opened:
            width, channels, own_rate = opened.getsampwidth(), opened.getnchannels(), opened.getframerate()
            frames = opened.readframes(opened.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise DataError(
            f"the sound cannot be read: {error}", name_of(media), "give an uncompressed WAV file (PCM)"
        ) from error
    if width == 1:
        samples = np.frombuffer(frames, np.uint8).astype(np.float32) / 128 - 1
    elif width == 3:
        padded = np.frombuffer(frames, np.uint8).reshape(-1, 3)
        samples = (np.pad(padded, ((0, 0), (1, 0))).copy().view("<i4")[:, 0] / 2**31).astype(np.float32)
    else:
        samples = (np.frombuffer(frames, f"<i{width}") / 2.0 ** (8 * width - 1)).astype(np.float32)
    samples = samples.reshape(-1, channels).mean(1)
    if len(samples) == 0:
        raise DataError("the sound is empty", name_of(media), "remove the row")
    return samples if own_rate == rate else resample(samples, round(len(samples) * rate / own_rate))


def resample(samples: np.ndarray, count: int) -> np.ndarray:
    """The sound with `count` samples: its spectrum, cut or padded with zeros."""
    spectrum = np.fft.rfft(samples)
    wanted = np.zeros(count // 2 + 1, dtype=spectrum.dtype)
    shared = min(len(spectrum), len(wanted))
    wanted[:shared] = spectrum[:shared]
    return (np.fft.irfft(wanted, count) * (count / len(samples))).astype(np.float32)


def name_of(media: Media) -> str:
    """What the input is called in an error."""
    return media.path or f"{media.kind} of {len(media.data):,} bytes"
