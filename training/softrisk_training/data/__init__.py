"""Images from many kinds of source, and the four disjoint row lists of labelled ones. Imports no torch."""

from softrisk_training.data.images import ImageData, Images
from softrisk_training.data.sources import absolute_location, load_data, load_images
from softrisk_training.data.splits import Splits, split_rows

__all__ = ["ImageData", "Images", "Splits", "absolute_location", "load_data", "load_images", "split_rows"]
