"""Did you mean."""

from __future__ import annotations

import pytest

from oxrl_core.suggest import did_you_mean


@pytest.mark.parametrize(
    ("word", "expected"),
    [("betta", "beta"), ("clip-low", "clip_low"), ("CLIP_LOW", "clip_low"), ("xyz", ""), ("", "")],
)
def test_the_nearest_word_is_named_and_nothing_where_none_is_near(word, expected):
    sentence = did_you_mean(word, ["beta", "clip_low", "clip_high"])
    assert sentence == (f" Did you mean '{expected}'?" if expected else "")
