"""Whether a server answers rightly: against onnxruntime alone, and to each caller his own."""

import http.client
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from benchmarks.serving.codecs import Answer, Codec, Images
from benchmarks.serving.errors import WrongAnswerError
from benchmarks.serving.running import Running, send
from numpy.typing import NDArray

TOLERANCE: Final = 1e-4
"""Of logits, relative to the largest: the order of sums depends on the batch."""
RANK_TOLERANCE: Final = 2
"""A rank counts calibration scores below a value that has this tolerance."""

_IMAGES: Final = 64
_CONNECTIONS: Final = 32


def compare(answer: Answer, reference: Answer) -> None:
    """Compare all that an answer holds and the reference knows.

    Args:
        answer: Logits or probabilities, and for us more.
        reference: All outputs of our bundle for the same images.

    Raises:
        WrongAnswerError: If something differs by more than rounding explains, or nothing can be compared.
    """
    compared = [name for name in answer if name in reference]
    if not {"logits", "probabilities"} & set(compared):
        raise WrongAnswerError(f"neither logits nor probabilities among {', '.join(answer) or 'no outputs'}")
    for name in compared:
        found, expected = np.asarray(answer[name], np.float64), np.asarray(reference[name], np.float64)
        if found.shape != expected.shape:
            raise WrongAnswerError(f"{name} has shape {found.shape} where the reference has {expected.shape}")
        if not _close(name, found, expected, reference):
            raise WrongAnswerError(f"{name} differs from the reference by {np.abs(found - expected).max():.3g}")


def _close(name: str, found: NDArray[Any], expected: NDArray[Any], reference: Answer) -> bool:
    if name == "flagged":
        return True  # follows the rank, which is compared
    return bool(np.all(np.abs(found - expected) <= _allowed(name, expected, reference)))


def _allowed(name: str, expected: NDArray[np.float64], reference: Answer) -> float:
    match name:
        case "rank":
            return RANK_TOLERANCE
        case "p_value" | "score":
            # p = rank / (n + 1), so p / rank is what one rank is worth.
            return RANK_TOLERANCE * float(np.max(reference["p_value"] / reference["rank"])) + 1e-6
        case _:
            return TOLERANCE * max(float(np.abs(expected).max()), 1.0)


def read(codec: Codec, headers: Mapping[str, str], body: bytes) -> Answer:
    """Read an answer.

    Raises:
        WrongAnswerError: If it has not the form that it should have.
    """
    try:
        return codec.decode(headers, body)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise WrongAnswerError(f"an answer of another form ({error!r}): {body[:200]!r}") from error


def check_answers(running: Running, codec: Codec) -> int:
    """Ask for different images at once on many connections, each several times, and compare every answer.

    Returns:
        Number of answers, all of which were right.

    Raises:
        WrongAnswerError: If one is wrong.
    """
    images = running.subject.images(_IMAGES)
    reference = running.subject.reference(images)

    def work(first: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
        try:
            rows = [(first + step * _CONNECTIONS // 2) % _IMAGES for step in range(6)]
            for row in rows:
                _check_one(connection, codec, images[row : row + 1], _rows(reference, row))
        finally:
            connection.close()
        return len(rows)

    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        return sum(pool.map(work, range(_CONNECTIONS)))


def _check_one(connection: http.client.HTTPConnection, codec: Codec, images: Images, reference: Answer) -> None:
    status, headers, body = send(connection, codec.encode(images))
    if status != http.client.OK:
        raise WrongAnswerError(f"status {status}: {body[:200].decode(errors='replace')}")
    compare(read(codec, headers, body), reference)


def _rows(answer: Answer, row: int) -> Answer:
    return {name: values[row : row + 1] for name, values in answer.items()}
