"""A model behind the service as the attacks room sees it: a torch module whose forward pass is a request."""

from typing import Self

import httpx2
import numpy as np
import torch
from benchmarks.serving.codecs import Answer, Images, V2Binary
from torch import Tensor, nn

from softrisk_attacks.adaptive import Classifier
from softrisk_attacks.victim import surely_fooled


class Caller:
    """Sends batches by V2, as binary tensors, and gets all outputs that its key discloses.

    Args:
        url: Of the service.
        model: Name of the model.
        version: Of the model.
        key: Decides what is disclosed.
    """

    def __init__(self, url: str, model: str, version: int, key: str) -> None:
        # A body without a head: the model's only input, answered by all outputs that the caller may see.
        self._http = httpx2.Client(
            base_url=url,
            timeout=60,
            headers={"Authorization": f"Bearer {key}", "Inference-Header-Content-Length": "0"},
        )
        self._path = f"/v2/models/{model}/versions/{version}/infer"
        self._codec = V2Binary(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.close()

    def ask(self, images: Images) -> Answer:
        """Outputs by name, for a batch of shape (B, C, H, W)."""
        body = np.ascontiguousarray(images).tobytes()
        response = self._http.post(self._path, content=body, headers={"Content-Type": "application/octet-stream"})
        response.raise_for_status()
        return self._codec.decode(response.headers, response.content)


class ServedModel(nn.Module):
    """Makes logits of whatever the service discloses, and counts the questions.

    Disclosed logits are passed on. Of a label alone one logit is 1 and the others are 0, so that an attack on decisions
    finds its classes and any other finds nothing. Whoever does without flagged points has all logits of these 0: no
    class stands out, which counts for no attack as a success.

    Attributes:
        questions: Images sent.
        first_success: For each image, with which question about it the attacker saw a success inside the ball; 0 for
            none. Attacks that ask about one point of each image at a time are presumed.

    Raises:
        ValueError: If two images are so close that a point may lie in the balls of both.
    """

    def __init__(
        self,
        caller: Caller,
        originals: Tensor,
        labels: Tensor,
        *,
        classes: int,
        epsilon: float,
        avoid_flags: bool,
    ) -> None:
        super().__init__()
        self._caller, self._classes, self._epsilon, self._avoid_flags = caller, classes, epsilon, avoid_flags
        self._originals, self._labels = originals.flatten(1), labels
        if len(originals) > 1 and torch.pdist(self._originals, p=torch.inf).min() <= 2 * epsilon:
            raise ValueError(f"the images must lie further apart than 2 ε = {2 * epsilon:g}: choose a smaller ε")
        self._nonconformity = torch.empty(0)
        self.start()

    def __deepcopy__(self, memo: object) -> Self:
        # A victim copies its model; a connection is nothing to copy, and what is counted here is to be seen outside.
        return self

    def start(self) -> None:
        """Count from here on."""
        self.questions = self._rounds = 0
        self.first_success = torch.zeros(len(self._labels), dtype=torch.int64)

    def forward(self, points: Tensor) -> Tensor:
        """Ask the service."""
        answer = {name: torch.from_numpy(values.copy()) for name, values in self._caller.ask(points.numpy()).items()}
        if "logits" in answer:
            logits, self._nonconformity = answer["logits"], answer["nonconformity"]
        else:
            logits = nn.functional.one_hot(answer["label"], self._classes).float()
        if self._avoid_flags:
            logits = torch.where(answer["flagged"][:, None], 0, logits)
        self._count(points.flatten(1), logits)
        return logits

    def nonconformity(self, classifier: Classifier, points: Tensor, logits: Tensor) -> Tensor:
        """What the service said beside the logits that it gave last."""
        assert len(logits) == len(self._nonconformity)
        return self._nonconformity

    def _count(self, points: Tensor, logits: Tensor) -> None:
        self.questions += len(points)
        self._rounds += 1
        # Attacks do not say which image a point belongs to; inside the ball, no other is as near.
        distances, rows = torch.cdist(points, self._originals, p=torch.inf).min(dim=1)
        inside = distances <= self._epsilon + 1e-6
        rows = rows[inside & surely_fooled(logits, self._labels[rows])]
        self.first_success[rows[self.first_success[rows] == 0]] = self._rounds
