"""Deterministic pseudo-random weights for golden tests of the refinement networks.

Each tensor depends on its state-dict key and shape only.  The generator is the
frozen MT19937 stream behind numpy.random.RandomState, seeded with the CRC-32 of
the key; only uniform doubles are drawn (53-bit, bit-exact everywhere), in C order.

  key ends with            value (u = uniform doubles in [0, 1) of the tensor's shape)
  num_batches_tracked      0 (int64)
  running_mean             0.2 * (u - 0.5)
  running_var              0.5 + u
  1-D weight (BN gamma)    0.4 + 0.8 * u
  1-D bias (BN beta)       0.4 * (u - 0.5)
  4-D weight (conv)        GAIN * sqrt(3 / fan_in) * (2 u - 1), fan_in = I * kh * kw
  conv_seg.weight          the 4-D rule with SEG_GAIN in place of GAIN, then every odd input
                           channel replaced by minus the even channel before it (this keeps
                           the two logits near each other, so no probability saturates)
  conv_seg.bias            0.4 * (u - 0.5)
The result is rounded from double to float32.
"""

import zlib

import numpy as np

GAIN = 0.7
SEG_GAIN = 4.0


def tensor_for(key, shape):
    shape = tuple(int(n) for n in shape)
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    u = np.random.RandomState(zlib.crc32(key.encode("utf-8"))).random_sample(shape)
    if key.endswith("running_mean"):
        value = 0.2 * (u - 0.5)
    elif key.endswith("running_var"):
        value = 0.5 + u
    elif key.endswith("bias"):
        value = 0.4 * (u - 0.5)
    elif len(shape) == 1:
        value = 0.4 + 0.8 * u
    else:
        gain = SEG_GAIN if key.endswith("conv_seg.weight") else GAIN
        value = gain * np.sqrt(3.0 / float(np.prod(shape[1:]))) * (2.0 * u - 1.0)
        if key.endswith("conv_seg.weight"):
            value[:, 1::2] = -value[:, 0::2]
    return np.asarray(value, np.float32)


def state_dict_for(shapes):
    """shapes: mapping key -> shape; returns mapping key -> numpy array."""
    return {key: tensor_for(key, shape) for key, shape in shapes.items()}
