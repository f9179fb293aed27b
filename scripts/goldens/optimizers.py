"""Makes the goldens of update rules and of learning rate schedules.

    python scripts/goldens/optimizers.py

The rules are written out here in float64; that they are those of MLX's and PyTorch's optimizers is
checked in f32. The model, the batch and the adapter are those of `tiny.optimiser_golden`.
"""

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
import torch
from common import GOLDENS, provenance, save_json
from mlx_lm.tuner.utils import build_schedule
from oracle import masked_loss, trainable
from tiny import SEED, STEPS, adapted, header, ragged_batch

LEARNING_RATE = 1e-2


class Sgd:
    def __init__(self, momentum=0.0, weight_decay=0.0, nesterov=False):
        self.settings = dict(momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)

    def step(self, p, g, state):
        s = self.settings
        g = g + s["weight_decay"] * p
        state["v"] = s["momentum"] * state.get("v", 0.0) + g
        change = g + s["momentum"] * state["v"] if s["nesterov"] else state["v"]
        return p - LEARNING_RATE * change

    def mlx(self):
        return optim.SGD(LEARNING_RATE, **self.settings)


class Adafactor:
    def __init__(self, **settings):
        self.settings = settings

    def step(self, p, g, state):
        relative = self.settings.get("relative_step", True)
        scaled = self.settings.get("scale_parameter", True)
        state["t"] = t = state.get("t", 0) + 1
        rms = lambda x: x.pow(2).mean().sqrt()
        lr = min(1e-2, t**-0.5) if relative else LEARNING_RATE
        if scaled:
            lr = lr * torch.clamp(rms(p), min=1e-3)
        beta = 1 - t**-0.8
        square = g**2 + 1e-30
        for name, mean in (("row", square.mean(-1)), ("col", square.mean(-2))):
            state[name] = beta * state.get(name, 0.0) + (1 - beta) * mean
        row, col = state["row"], state["col"]
        update = torch.outer((row / row.mean()).rsqrt(), col.rsqrt()) * g
        update = update / torch.clamp(rms(update), min=1.0)
        return p * (1 - self.settings.get("weight_decay", 0.0) * lr) - lr * update

    def mlx(self):
        return optim.Adafactor(LEARNING_RATE, **self.settings)


class Muon:
    def __init__(self, momentum=0.95, weight_decay=0.01, nesterov=True):
        self.settings = dict(momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)

    def step(self, p, g, state):
        s = self.settings
        g = g + s["weight_decay"] * p
        state["v"] = s["momentum"] * state.get("v", 0.0) + (1 - s["momentum"]) * g
        x = (1 - s["momentum"]) * g + s["momentum"] * state["v"] if s["nesterov"] else state["v"]
        turned = x.shape[0] > x.shape[1]
        x = x.T if turned else x
        x = x / (x.norm() + 1e-7)
        a, b, c = 3.4445, -4.7750, 2.0315
        for _ in range(5):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        x = x.T if turned else x
        return p - LEARNING_RATE * max(1, x.shape[0] / x.shape[1]) ** 0.5 * x

    def mlx(self):
        return optim.Muon(LEARNING_RATE, **self.settings)


RUNS = {
    "sgd": Sgd(),
    "sgd_momentum": Sgd(momentum=0.9, weight_decay=0.1),
    "sgd_nesterov": Sgd(momentum=0.9, nesterov=True),
    "adafactor": Adafactor(),
    "adafactor_rate": Adafactor(relative_step=False, scale_parameter=False, weight_decay=0.1),
    "muon": Muon(),
    "muon_plain": Muon(momentum=0.5, weight_decay=0.0, nesterov=False),
}


def check_against_mlx(name: str, rule) -> None:
    """Three steps on made-up matrices by the rule above and by MLX's."""
    generator = torch.Generator().manual_seed(SEED)
    shapes = {"a": (7, 3), "b": (3, 9)}
    p = {k: torch.randn(s, generator=generator, dtype=torch.float64) for k, s in shapes.items()}
    theirs = {k: mx.array(v.numpy().astype(np.float32)) for k, v in p.items()}
    optimizer, states = rule.mlx(), {k: {} for k in shapes}
    for _ in range(3):
        g = {k: torch.randn(s, generator=generator, dtype=torch.float64) for k, s in shapes.items()}
        p = {k: rule.step(p[k], g[k], states[k]) for k in shapes}
        gradients = {k: mx.array(v.numpy().astype(np.float32)) for k, v in g.items()}
        theirs = optimizer.apply_gradients(gradients, theirs)
    for k, expected in p.items():
        apart = np.abs(np.array(theirs[k]) - expected.numpy()).max()
        assert apart < 1e-4, f"{name}: MLX's {k} is {apart} away"


def run(rule) -> list[float]:
    """The loss before each of ten steps on one batch, and after the last."""
    model = adapted("tiny", range(1, 3), 4, 2.5)
    ids, mask = ragged_batch(model.config.vocab_size)
    parameters, losses = trainable(model), []
    states = {name: {} for name in parameters}
    for step in range(STEPS + 1):
        for parameter in parameters.values():
            parameter.grad = None
        loss = masked_loss(model, ids, mask)
        losses.append(loss.item())
        if step == STEPS:
            break
        loss.backward()
        with torch.no_grad():
            for name, parameter in parameters.items():
                # MLX's adapters are transposed, and Muon tells rows from columns.
                new = rule.step(parameter.data.T, parameter.grad.T, states[name])
                parameter.copy_(new.T)
    return losses


SCHEDULES = [
    {"name": "linear_schedule", "arguments": [1e-3, 1e-5, 8]},
    {"name": "cosine_decay", "arguments": [1e-3, 10]},
    {"name": "cosine_decay", "arguments": [1e-3, 8, 1e-4], "warmup": 3, "warmup_init": 1e-6},
    {"name": "exponential_decay", "arguments": [1e-3, 0.9]},
    {"name": "step_decay", "arguments": [1e-3, 0.5, 4], "warmup": 2},
]


def main() -> None:
    torch.set_num_threads(1)
    runs = {}
    for name, rule in RUNS.items():
        check_against_mlx(name, rule)
        runs[name] = {"losses": run(rule)}
        print(f"{name}: {runs[name]['losses'][0]:.4f} to {runs[name]['losses'][-1]:.4f}")
    about = {"learning_rate": LEARNING_RATE, "runs": runs}
    save_json(GOLDENS / "tiny_optimizers.json", about, header("tiny"))
    schedules = []
    for schedule in SCHEDULES:
        rate = build_schedule(schedule)
        rates = [float(rate(mx.array(step))) for step in range(15)]
        schedules.append({"schedule": schedule, "rates": rates})
    about = provenance("none", "", SEED, "mlx", "mlx-lm")
    save_json(GOLDENS / "schedules.json", {"schedules": schedules}, about)


if __name__ == "__main__":
    main()
