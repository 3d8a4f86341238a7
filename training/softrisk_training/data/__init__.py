"""Labelled images from many kinds of source, and their four disjoint row lists. Imports no torch."""

from softrisk_training.data.images import ImageData
from softrisk_training.data.sources import load_data
from softrisk_training.data.splits import Splits, split_rows

__all__ = ["ImageData", "Splits", "load_data", "split_rows"]
