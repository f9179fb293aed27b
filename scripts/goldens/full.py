"""Makes the goldens of full fine-tuning: the gradient of every weight, and ten steps of Adam.

    python scripts/goldens/full.py

The batch is that of the LoRA gradients (`tiny.ragged_batch`). Of the matrices of `tiny_odd`, some rows
are kept: what it adds are biases, a head of its own and llama3's rope.
"""

import numpy as np
import torch
from common import GOLDENS, save_tensors
from oracle import load, masked_loss
from tiny import Adam, STEPS, f32, header, ragged_batch

KEPT_ROWS = 16


def gradients(name: str, every_row: bool) -> None:
    """Loss and the gradients of all weights, by their names in the checkpoint."""
    model = load(GOLDENS / name)
    ids, mask = ragged_batch(model.config.vocab_size)
    loss = masked_loss(model, ids, mask)
    loss.backward()
    tensors = {"loss": np.array([loss.item()], np.float64)}
    for key, parameter in model.named_parameters():
        gradient = f32(parameter.grad)
        if gradient.ndim == 2 and not every_row:
            gradient = gradient[:KEPT_ROWS]
        tensors[f"grad.{key}"] = gradient
    print(f"{name}: loss {loss.item():.6f}, {len(tensors) - 1} gradients")
    save_tensors(GOLDENS / f"{name}_full_grads.safetensors", tensors, header(name))


def steps(name: str, layers: range) -> None:
    """Losses before each of ten steps of Adam on the blocks `layers`, and after the last."""
    model = load(GOLDENS / name)
    ids, mask = ragged_batch(model.config.vocab_size)
    model.requires_grad_(False)
    for layer in layers:
        model.model.layers[layer].requires_grad_(True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = Adam(parameters, bias_correction=True)
    losses = []
    for step in range(STEPS + 1):
        loss = masked_loss(model, ids, mask)
        losses.append(loss.item())
        if step < STEPS:
            for parameter in parameters:
                parameter.grad = None
            loss.backward()
            optimizer.step()
    print(f"{name}, blocks {layers}: losses {losses[0]:.4f} to {losses[-1]:.4f}")
    save_tensors(
        GOLDENS / f"{name}_full_steps.safetensors",
        {"losses": np.array(losses, np.float64)},
        header(name) | {"layers": list(layers)},
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    gradients("tiny", True)
    gradients("tiny_odd", False)
    steps("tiny", range(1, 3))
