"""Precision: rewrites of phase *precision*, which give a graph the types that an engine computes in."""

from convkit.graph.precision._to_16_bit import To16Bit

__all__ = ["To16Bit"]
