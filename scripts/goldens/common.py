"""What every golden script shares: the generator of test values, provenance, and file writing."""

import hashlib
import importlib.metadata
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

GOLDENS = Path(__file__).resolve().parents[2] / "data" / "goldens"
MASK = (1 << 64) - 1

# The seven linears of a Llama block in the order of the checkpoint's forward pass.
LINEARS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


def fnv1a64(text: str) -> int:
    """FNV-1a, 64 bit, over the UTF-8 bytes: turns a tensor's name into its seed."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


def splitmix64(state: int) -> int:
    """The output that SplitMix64 gives for `state` (the increment is added first)."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def splitmix64_array(seed: int, count: int) -> np.ndarray:
    """`splitmix64(seed + i)` for i in 0..count, as u64."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed & MASK) + np.arange(count, dtype=np.uint64)
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def uniform(name: str, shape: tuple[int, ...], bound: float) -> np.ndarray:
    """Values in [-bound, bound) that Rust makes again from the tensor's name alone.

    Element i (row-major) is `((splitmix64(fnv1a64(name) + i) >> 40) / 2^24 * 2 - 1) * bound`,
    computed in f64 and rounded to f32.
    """
    bits = splitmix64_array(fnv1a64(name), int(np.prod(shape)))
    unit = (bits >> np.uint64(40)).astype(np.float64) / 2.0**24 * 2.0 - 1.0
    return (unit * bound).astype(np.float32).reshape(shape)


def positions(name: str, count: int, size: int) -> np.ndarray:
    """`count` row-major positions below `size`: `splitmix64(fnv1a64(name) + i) % size`."""
    return (splitmix64_array(fnv1a64(name), count) % np.uint64(size)).astype(np.int64)


def hash_adapter(layers: range, dims: dict[str, tuple[int, int]], rank: int, bound_b: float):
    """An adapter in MLX's names and layout whose values come from [`uniform`].

    `dims` maps each linear to (in, out). lora_a [in, r] is within 1/sqrt(in), lora_b [r, out]
    within `bound_b`.
    """
    adapter = {}
    for layer in layers:
        for linear in LINEARS:
            inputs, outputs = dims[linear]
            key = f"model.layers.{layer}.{linear}"
            a, b = f"{key}.lora_a", f"{key}.lora_b"
            adapter[a] = uniform(a, (inputs, rank), 1.0 / np.sqrt(inputs))
            adapter[b] = uniform(b, (rank, outputs), bound_b)
    return adapter


def linear_dims(config) -> dict[str, tuple[int, int]]:
    """(in, out) of every linear of a block, from a Hugging Face Llama config."""
    hidden, mlp = config.hidden_size, config.intermediate_size
    q = config.num_attention_heads * config.head_dim
    kv = config.num_key_value_heads * config.head_dim
    sizes = ((hidden, q), (hidden, kv), (hidden, kv), (q, hidden))
    sizes += ((hidden, mlp), (hidden, mlp), (mlp, hidden))
    return dict(zip(LINEARS, sizes, strict=True))


def peft_key(mlx_key: str) -> str:
    """PEFT's name of an MLX adapter tensor; the tensor itself is transposed."""
    stem, leaf = mlx_key.rsplit(".", 1)
    return f"base_model.model.{stem}.{'lora_A' if leaf == 'lora_a' else 'lora_B'}.weight"


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def provenance(model: str, model_sha256: str, seed, *packages: str) -> dict:
    """The header of every golden: model, its digest, library versions, seed."""
    versions = {name: importlib.metadata.version(name) for name in sorted(packages)}
    return {"model": model, "sha256": model_sha256, "versions": versions, "seed": seed}


def save_tensors(path: Path, tensors: dict[str, np.ndarray], header: dict) -> None:
    """Writes safetensors with `header` as JSON under the metadata key `provenance`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    # One key only: the order of several is not kept, and the file would change at each run.
    save_file(arrays, path, metadata={"provenance": json.dumps(header, sort_keys=True)})


def save_json(path: Path, value: dict, header: dict) -> None:
    """Writes `value` as JSON with `header` under the key `provenance`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"provenance": header, **value}, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
