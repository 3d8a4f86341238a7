"""Without the extra `captions`, pre-trained captioners say which line installs it."""

import sys

import pytest

from softrisk_core.errors import MissingExtraError
from softrisk_training.captioning.pretrained import load_pretrained


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'softrisk\[captions\]'"):
        load_pretrained("anywhere")
