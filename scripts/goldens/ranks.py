"""Makes the golden of training with ranks and alphas that differ: ten steps of PyTorch's Adam under PEFT.

    python scripts/goldens/ranks.py

Needs the tiny models (`tiny.py`). The adapter's values are those of the hash, at each layer's own rank.
"""

import numpy as np
import torch
from common import GOLDENS, LINEARS, linear_dims, peft_key, save_json, uniform
from oracle import load, masked_loss, trainable
from peft import LoraConfig, get_peft_model
from peft.utils import set_peft_model_state_dict
from tiny import BOUND_B, STEPS, header, ragged_batch

LAYERS = range(1, 3)
RANK, ALPHA, LEARNING_RATE = 4, 10.0, 1e-3
# PEFT takes the first pattern that matches; here no two match one layer.
RANK_PATTERN = {"q_proj": 2, r"layers\.2\.mlp\.(gate|up)_proj": 6}
ALPHA_PATTERN = {"down_proj": 3.0, r"layers\.2\.mlp\.up_proj": 24.0}


def adapted(use_rslora: bool):
    base = load(GOLDENS / "tiny")
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=[linear.rsplit(".", 1)[1] for linear in LINEARS],
        layers_to_transform=list(LAYERS),
        rank_pattern=RANK_PATTERN,
        alpha_pattern=ALPHA_PATTERN,
        use_rslora=use_rslora,
        task_type="CAUSAL_LM",
    )
    dims, dtype = linear_dims(base.config), base.dtype
    model = get_peft_model(base, config)
    state = {}
    for layer in LAYERS:
        for linear in LINEARS:
            path = f"model.layers.{layer}.{linear}"
            ins, outs = dims[linear]
            rank = model.get_submodule(f"base_model.model.{path}").r["default"]
            for half, shape, bound in (
                ("lora_a", (ins, rank), 1.0 / np.sqrt(ins)),
                ("lora_b", (rank, outs), BOUND_B),
            ):
                value = uniform(f"{path}.{half}", shape, bound)
                state[peft_key(f"{path}.{half}")] = torch.from_numpy(value.T.copy())
    assert not set_peft_model_state_dict(model, state).unexpected_keys
    return model.to(dtype)


def losses(use_rslora: bool) -> list[float]:
    """Before each of the ten steps, and after the last."""
    model = adapted(use_rslora)
    ids, mask = ragged_batch(model.config.vocab_size)
    optimizer = torch.optim.Adam(trainable(model).values(), lr=LEARNING_RATE)
    found = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = masked_loss(model, ids, mask)
        loss.backward()
        found.append(loss.item())
        optimizer.step()
    with torch.no_grad():
        found.append(masked_loss(model, ids, mask).item())
    print(f"rslora {use_rslora}: loss {found[0]:.6f} -> {found[-1]:.6f}")
    return found


def main() -> None:
    torch.set_num_threads(1)
    about = {
        "rank": RANK,
        "lora_alpha": ALPHA,
        "rank_pattern": RANK_PATTERN,
        "alpha_pattern": ALPHA_PATTERN,
        "learning_rate": LEARNING_RATE,
    }
    runs = {"lora": losses(False), "rslora": losses(True)}
    save_json(GOLDENS / "tiny_ranks.json", about | {"losses": runs}, header("tiny"))


if __name__ == "__main__":
    main()
