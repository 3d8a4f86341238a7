"""The scores of `softrisk_core.scores` in float32, as tails of a graph, one small module each."""
