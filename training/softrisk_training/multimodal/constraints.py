"""What training holds the weights to: layers of norm ≤ 1, and orthonormal rows of the heads.

They are parametrisations of plain layers, and taken off after training. What is saved, bounded and exported is a plain
network, and `softrisk_training.multimodal.lipschitz` proves its bound from the weights that it has, whatever made them.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from softrisk_training.multimodal.model import MultimodalClassifier

NEWTON_STEPS: Final = 24
"""Newton's iteration doubles the digits; before that a singular value of 10⁻³ of the norm grows by 1.5 a step."""


class AlmostOrthogonal(nn.Module):
    """Weights W of a linear or convolution layer to D^(−1/2) W, of norm ≤ 1 (AOL: Prach & Lampert, ECCV 2022).

    D has the sums of the absolute entries of each row of W Wᵀ, so that D − W Wᵀ is diagonally dominant and therefore
    positive semi-definite. For a layer with fewer inputs than outputs columns take the place of rows. Zeros around a
    convolution's image only cut its operator down, which makes no norm larger.
    """

    def forward(self, weight: Tensor) -> Tensor:
        """Same shape: (outputs, inputs) or (outputs, inputs, k, k)."""
        outputs, inputs = weight.shape[:2]
        kernel = weight if weight.dim() == 4 else weight[:, :, None, None]
        if outputs > inputs:
            return self._rescaled(kernel.transpose(0, 1)).transpose(0, 1).reshape_as(weight)
        return self._rescaled(kernel).reshape_as(weight)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Weights that are left to be rescaled."""
        return weight

    def _rescaled(self, kernel: Tensor) -> Tensor:
        products = F.conv2d(kernel, kernel, padding=kernel.shape[-1] - 1)
        sums = products.abs().sum(dim=(1, 2, 3), keepdim=True)
        return kernel / (sums + 1e-12).sqrt()


class Orthonormal(nn.Module):
    """Rows Z to S^(−1/2) Z, with Z centred row by row and S = Z Zᵀ: orthonormal rows without mean.

    The weights of OthogonalWN (Huang et al.), on which the heads of CRMT rest. S^(−1/2) comes by the Newton–Schulz
    iteration, whose gradient, unlike that of an eigendecomposition, does not mind equal eigenvalues.
    """

    def forward(self, rows: Tensor) -> Tensor:
        """Shape (classes, features), classes < features."""
        centred = rows - rows.mean(dim=1, keepdim=True)
        x: Tensor = centred / torch.linalg.norm(centred)
        for _ in range(NEWTON_STEPS):
            x = 1.5 * x - 0.5 * (x @ x.T) @ x
        return x

    def right_inverse(self, rows: Tensor) -> Tensor:
        """Rows that are left to be made orthonormal."""
        return rows


class UnitRows(nn.Module):
    """Rows centred and of norm 1, but not mutually orthogonal: what the authors' code of CRMT does."""

    def forward(self, rows: Tensor) -> Tensor:
        """Shape (classes, features)."""
        return F.normalize(rows - rows.mean(dim=1, keepdim=True), dim=1)

    def right_inverse(self, rows: Tensor) -> Tensor:
        """Rows that are left to be normalised."""
        return rows


def constrain(
    model: MultimodalClassifier, *, lipschitz: bool, heads: type[Orthonormal] | type[UnitRows] | None
) -> None:
    """Put a model under its constraints, starting from almost orthogonal layers.

    Args:
        model: Freshly initialised.
        lipschitz: Whether every layer of the encoders is to have norm ≤ 1.
        heads: What holds the rows of the heads, if anything.
    """
    if lipschitz:
        for layer in model.encoders.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                _start_orthogonal(layer)
                parametrize.register_parametrization(layer, "weight", AlmostOrthogonal())
    if heads is not None:
        for head in model.fusion.heads:
            parametrize.register_parametrization(head, "weight", heads())


def release(model: MultimodalClassifier) -> None:
    """Take the constraints off: the weights stay as they are."""
    for layer in list(model.modules()):
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def _start_orthogonal(layer: nn.Conv2d | nn.Linear) -> None:
    # From random weights, rescaling would leave a signal that shrinks layer by layer.
    weight = layer.weight.data
    if weight.dim() == 2:
        nn.init.orthogonal_(weight)
        return
    middle = weight.shape[-1] // 2
    nn.init.zeros_(weight)
    weight[:, :, middle, middle] = nn.init.orthogonal_(torch.empty(weight.shape[:2]))
