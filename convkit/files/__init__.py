"""Files: SHA-256 hashes, and writing that leaves the old or the new content, whatever ends a process."""

from convkit.files._content import sha256, write_atomic
from convkit.files._exchange import move_into_place
from convkit.files._scratch import clear_leftovers, put_back, scratch_beside
from convkit.files._sync import sync, sync_tree

__all__ = [
    "clear_leftovers",
    "move_into_place",
    "put_back",
    "scratch_beside",
    "sha256",
    "sync",
    "sync_tree",
    "write_atomic",
]
