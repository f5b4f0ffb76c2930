"""Deterministic numbers shared by the golden files and the tests that read them.

Only numpy's frozen legacy generator (RandomState) is used, so the values are the
same on every numpy version and platform.
"""

import zlib

import numpy as np

# Reference keys end in one of these; the listed factor keeps a random network in a
# range where top-k, NMS and the score threshold still have something to choose from.
GAINS = {
    "stem.conv1.weight": 0.02,  # detectron2 feeds 0..255 pixels
    "anchor_deltas.weight": 0.05,
    "rpn_reg.weight": 0.05,  # RPN box deltas
    "bbox_pred.weight": 0.3,
    "fc_reg.weight": 0.3,  # second-stage box deltas
    "objectness_logits.weight": 0.5,
    "rpn_cls.weight": 0.5,
    "cls_score.weight": 1.2,
    "fc_cls.weight": 1.2,
}


def noise(name, shape):
    """Standard normal float32, seeded by crc32(name). Used for every input array."""
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    return rng.standard_normal(shape).astype(np.float32)


def weight(key, shape):
    """Value of one state-dict entry, from its reference key and shape alone."""
    rng = np.random.RandomState(zlib.crc32(key.encode()))
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var":
        out = 0.5 + rng.random_sample(shape)
    elif leaf == "running_mean":
        out = 0.1 * rng.standard_normal(shape)
    elif leaf == "bias":
        out = 0.05 * rng.standard_normal(shape)
    elif len(shape) < 2:  # norm scale
        out = 0.4 + 0.4 * rng.random_sample(shape)
    else:  # conv / linear / deconv
        out = rng.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
        for suffix, gain in GAINS.items():
            if key.endswith(suffix):
                out = out * gain
    return out.astype(np.float32)


def state_dict(shapes):
    """{key: shape} -> {key: ndarray}."""
    return {k: weight(k, tuple(s)) for k, s in shapes.items()}
