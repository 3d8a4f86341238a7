"""Digits, and a small network that reads them."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn


@pytest.fixture(scope="session")
def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    source = load_digits()
    return (source.images[:, None] / 16).astype(np.float32), source.target.astype(np.int64)


@pytest.fixture(scope="session")
def model(digits: tuple[NDArray[np.float32], NDArray[np.int64]]) -> nn.Module:
    return trained(digits, seed=0)


@pytest.fixture(scope="session")
def twin(digits: tuple[NDArray[np.float32], NDArray[np.int64]]) -> nn.Module:
    return trained(digits, seed=1)


def trained(digits: tuple[NDArray[np.float32], NDArray[np.int64]], seed: int) -> nn.Module:
    inputs, labels = torch.from_numpy(digits[0]), torch.from_numpy(digits[1])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(network(inputs), labels))
            optimizer.step()
    return network.eval()
