"""Precision: rewrites of phase *precision*, which give a graph the types that an engine computes in."""

from convkit.graph.precision._keep_file import keep_file_text, read_keep_file, write_keep_file
from convkit.graph.precision._search import Accept, Search, Trial, search
from convkit.graph.precision._to_16_bit import To16Bit

__all__ = [
    "Accept",
    "Search",
    "To16Bit",
    "Trial",
    "keep_file_text",
    "read_keep_file",
    "search",
    "write_keep_file",
]
