"""The NF4 grid of QLoRA, to tell a matrix that was rounded through it from one that is wrong.

Levels: Dettmers et al., QLoRA, https://arxiv.org/abs/2305.14314, appendix E; the values of a block share one scale,
the largest magnitude. bitsandbytes rounds the scales too (double quantisation), which moves a value by less than one
percent of its block's scale, so results are compared by norm and not bit by bit.
"""

from __future__ import annotations

import numpy as np

from ftdoctor.merging.tensors import Floats

BLOCKS = (64, 128, 256, 512, 1024, 2048, 4096)
"""Values that share a scale; bitsandbytes allows these, and takes 64 unless told otherwise."""
LEVELS = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip
EDGES = (LEVELS[1:] + LEVELS[:-1]) / 2


def nf4(values: Floats, block: int = BLOCKS[0]) -> Floats:
    """`values` (any shape, blocks run over the flat order) after quantisation to NF4 and back."""
    flat = values.reshape(-1)
    full = np.pad(flat, (0, -flat.size % block)).reshape(-1, block)
    scale = np.abs(full).max(axis=1, keepdims=True)
    scale[scale == 0] = 1
    result: Floats = (LEVELS[np.searchsorted(EDGES, full / scale)] * scale).astype(np.float32)
    return result.reshape(-1)[: flat.size].reshape(values.shape)
