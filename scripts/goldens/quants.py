"""Writes data/goldens/quants.json: what the `gguf` package makes of every block type.

Needs: pip install gguf==0.19.0 numpy. Run from the repository's root.
"""

import json
from importlib.metadata import version

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

SEED = 20250207
BLOCKS = 3
# Where the f16 scales lie in a block: random bytes there would give infinities.
SCALES = {
    "F16": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}  # fmt: skip


def hexes(values, data):
    return {"values": values.astype("<f4").tobytes().hex(), "bytes": data.tobytes().hex()}


def random_blocks(rng, name):
    values, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    count = BLOCKS if values > 1 else 32
    if name in ("F32", "BF16"):
        floats = rng.normal(size=count).astype("<f4").view(np.uint8).reshape(count, 4)
        return np.ascontiguousarray(floats[:, 4 - size :])
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for offset in SCALES[name]:
        blocks[:, offset : offset + 2] = (
            rng.normal(size=(count, 1)).astype("<f2").view(np.uint8).reshape(count, 2)
        )
    return blocks


def rounding_cases(rng):
    """Rows of 32: random, tiny, zero, ties of the largest magnitude, exact halves."""
    rows = [rng.normal(size=32), rng.normal(size=32) * 1e-6, np.zeros(32)]
    ties = rng.uniform(-0.5, 0.5, 32)
    ties[3], ties[9] = -1.0, 1.0
    halves = (np.arange(32) - 15.5).clip(-15.5, 15.5)
    halves[0] = 127.0
    rows += [ties, halves, -halves]
    return np.stack(rows).astype(np.float32)


def main():
    rng = np.random.default_rng(SEED)
    golden = {
        "source": f"scripts/goldens/quants.py, gguf {version('gguf')}, seed {SEED}",
        "dequantize": {},
        "quantize": {},
    }
    for name in ["F32", "F16", "BF16", *list(SCALES)[1:]]:
        blocks = random_blocks(rng, name)
        values = dequantize(blocks, GGMLQuantizationType[name])
        golden["dequantize"][name] = hexes(values, blocks)
    for name in ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]:
        values = rounding_cases(rng)
        data = quantize(values, GGMLQuantizationType[name])
        golden["quantize"][name] = hexes(values, data)
    with open("data/goldens/quants.json", "w") as file:
        json.dump(golden, file, indent=1)
        file.write("\n")


main()
