"""Nonconformity scores of one softmax: the float64 reference of each, one small module each.

The same arithmetic in float32 is in `softrisk_export.scores`, under the same names.
"""
