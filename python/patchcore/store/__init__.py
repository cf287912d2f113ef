"""The store: volumes on the training grid as sharded, compressed, checksummed Zarr v3, and windows from them."""

from __future__ import annotations

from patchcore.store.array import ChunkCache, StoredArray, write_array
from patchcore.store.layout import shard_shape

__all__ = ["ChunkCache", "StoredArray", "shard_shape", "write_array"]
