"""MLX with mlx-lm, on the CPU, in f32."""

import time
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_map
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load, load_model

from peers.batches import batches
from peers.part import main, milliseconds, rates

ABOUT = {"version": mx.__version__}


def mean_loss(model, inputs: mx.array, targets: mx.array, mask: mx.array) -> mx.array:
    logits = model(inputs)[:, : targets.shape[1]].astype(mx.float32)
    losses = nn.losses.cross_entropy(logits, targets)
    return (losses * mask).sum() / mask.sum()


def train(settings: dict) -> dict:
    lora = settings["lora"]
    model, _ = load_model(Path(settings["weights"]))
    mx.random.seed(lora["seed"])
    model.freeze()
    adapter = {"rank": lora["rank"], "scale": lora["scale"], "dropout": 0.0}
    linear_to_lora_layers(model, lora["num_layers"], adapter)
    model.train()
    optimizer = optim.Adam(learning_rate=lora["learning_rate"], bias_correction=True)
    gradient = nn.value_and_grad(model, mean_loss)
    steps, losses = [], []
    for ids, mask in batches(settings):
        begin = time.perf_counter()
        loss, grads = gradient(model, mx.array(ids[:, :-1]), mx.array(ids[:, 1:]), mx.array(mask))
        optimizer.update(model, grads)
        mx.eval(model.parameters(), optimizer.state, loss)
        losses.append(loss.item())
        steps.append(time.perf_counter() - begin)
    return ABOUT | {"steps": steps, "losses": losses}


def decode(settings: dict) -> dict:
    model, tokenizer = load(settings["weights"])
    prompt, new, cache = tokenizer.encode(settings["prompt"]), [], make_prompt_cache(model)
    ids, begin = prompt, time.perf_counter()
    while len(new) < settings["new_tokens"]:
        ids = [mx.argmax(model(mx.array([ids]), cache=cache)[0, -1]).item()]
        new += ids
        if len(new) == 1:
            first = time.perf_counter()
    return ABOUT | rates(prompt, new, begin, first, tokenizer.decode(new))


def inferena(settings: dict) -> dict:
    model, _ = load_model(Path(settings["weights"]))
    model.update(tree_map(lambda weight: weight.astype(mx.float32), model.parameters()))
    inputs, targets = mx.array([settings["inputs"]]), mx.array([settings["targets"]])
    gradient = nn.value_and_grad(model, mean_loss)

    def step() -> float:
        loss, grads = gradient(model, inputs, targets, mx.ones(targets.shape))
        mx.eval(loss, grads)
        return loss.item()

    repeats = settings["repeats"]
    return ABOUT | {
        "forward_ms": milliseconds(repeats, lambda: mx.eval(model(inputs))),
        "one_token_ms": milliseconds(repeats, lambda: mx.eval(model(inputs[:, :1]))),
        "step_ms": milliseconds(repeats, step),
        "loss": step(),
    }


if __name__ == "__main__":
    main(train, decode, inferena)
