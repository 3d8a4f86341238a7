"""The words and the grammar that describe scenes of two things.

```
caption   = article noun relation article noun
relation  = "left of" | "right of" | "above" | "below"
```

The thing whose class comes first is named first, and of two alike the left or upper one, so that every scene has one
right caption.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from softrisk_training.errors import DataError
from softrisk_training.losses import IGNORED

BEGIN, END = "<begin>", "<end>"
RELATIONS: Final = ("left of", "right of", "above", "below")
LONGEST: Final = len(["a", "three", "left", "of", "a", "seven"]) + 1
"""Tokens of the longest caption, its end included."""

_DIGITS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_GRAMMAR: Final = (BEGIN, END, "a", "an", *dict.fromkeys(" ".join(RELATIONS).split()))


class Language(NamedTuple):
    """The words for scenes of given classes.

    Attributes:
        nouns: One for each class.
        words: The vocabulary; a token is an index into it.
    """

    nouns: tuple[str, ...]
    words: tuple[str, ...]

    @classmethod
    def of(cls, classes: Sequence[str]) -> Self:
        """For classes of these names; digits are spelled out.

        Raises:
            DataError: If two classes would have the same noun, or one has a word of the grammar for a noun.
        """
        nouns = tuple(_noun(name) for name in classes)
        words = (*_GRAMMAR, *nouns)
        twice = sorted({word for word in words if words.count(word) > 1})
        if twice:
            raise DataError(f"captions cannot tell these classes apart from other words: {', '.join(twice)}")
        return cls(nouns, words)

    @property
    def begin(self) -> int:
        """The token before every caption."""
        return self.words.index(BEGIN)

    @property
    def end(self) -> int:
        """The token after the last word."""
        return self.words.index(END)

    def describe(self, near: int, far: int, *, vertical: bool) -> str:
        """The caption of a scene.

        Args:
            near: Class of what is left, or above.
            far: Class of what is right, or below.
            vertical: Whether one is above the other.
        """
        relation = RELATIONS[2 * vertical + (near > far)]
        first, second = (self.nouns[each] for each in sorted((near, far)))
        return f"{_article(first)} {first} {relation} {_article(second)} {second}"

    def encode(self, captions: Sequence[str]) -> NDArray[np.int64]:
        """Tokens with the end, then `IGNORED`, shape (N, LONGEST)."""
        tokens = np.full((len(captions), LONGEST), IGNORED, dtype=np.int64)
        for row, caption in zip(tokens, captions, strict=True):
            ids = [self.words.index(word) for word in (*caption.split(), END)]
            row[: len(ids)] = ids
        return tokens

    def decode(self, captions: NDArray[np.int64]) -> list[str]:
        """Captions as text, of tokens as `encode` and `generate` give them."""
        return [" ".join(self.words[token] for token in row if token not in (IGNORED, self.end)) for row in captions]


def _noun(name: str) -> str:
    return _DIGITS[int(name)] if name in map(str, range(10)) else "-".join(name.lower().split())


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeio" and noun != "one" else "a"
