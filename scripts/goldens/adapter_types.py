"""Makes the goldens of other adapters than plain LoRA: DoRA, rank-stabilised LoRA, bottlenecks.

    python scripts/goldens/adapter_types.py

Needs the tiny models (`tiny.py`). Everything is computed in float64 from weights and adapter values
that are exact in f32, so that the files hold the very values that were used.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import GOLDENS, hash_adapter, linear_dims, provenance, save_tensors, sha256, uniform
from oracle import adapt, load, masked_loss, trainable
from peft import PeftModel
from peft.helpers import DoraCaching
from safetensors.torch import load_file, save_file
from tiny import (
    BOUND_B,
    LENGTHS,
    SEED,
    STEPS,
    check_by_differences,
    f32,
    ragged_batch,
    random_ids,
    write_json,
)
from torch import nn

SEQUENCE_TOKENS = 20
LEARNING_RATE, BETAS, EPS = 1e-3, (0.9, 0.999), 1e-8
# How far DoRA's magnitudes are from the norms that PEFT starts with.
MAGNITUDE_BOUND = 0.1
BOTTLENECK = 5
BOTTLENECK_LINEARS = ("self_attn.o_proj", "mlp.down_proj")


def base_model(name: str):
    base = load(GOLDENS / name)
    # PEFT copies this path into adapter_config.json.
    base.name_or_path = base.config._name_or_path = f"data/goldens/{name}"
    return base


def lora(name: str, layers: range, rank: int, alpha: float, **options):
    """The model under PEFT's adapter, lora_A and lora_B of the hash."""
    base = base_model(name)
    values = hash_adapter(layers, linear_dims(base.config), rank, BOUND_B)
    return adapt(base, layers, rank, alpha / rank, values, **options).eval()


@torch.no_grad()
def dora(name: str, layers: range, rank: int, alpha: float):
    """With magnitudes: the norms of the frozen weight's rows, each times 1 + the hash."""
    model = lora(name, layers, rank, alpha, use_dora=True)
    weights = dict(load(GOLDENS / name).named_parameters())
    for key, parameter in trainable(model).items():
        if "lora_magnitude_vector" in key:
            linear = key.removeprefix("base_model.model.").split(".lora_magnitude_vector")[0]
            norms = weights[f"{linear}.weight"].norm(dim=1)
            factors = uniform(f"{linear}.m", tuple(norms.shape), MAGNITUDE_BOUND)
            magnitudes = (norms * (1.0 + torch.from_numpy(factors).double())).float()
            parameter.copy_(magnitudes)
    return model


class Bottlenecks(nn.Module):
    """Adapters as Houlsby et al. (2019) have them: y + up(relu(down(y))) for a linear's output y.

    They come after attention's and the MLP's last linear, before the residual is added.
    """

    def __init__(self, base, layers: range):
        super().__init__()
        # The names of parameters are then of the form of PEFT's.
        self.base_model = nn.Module()
        self.base_model.model = base.requires_grad_(False)
        hidden = base.config.hidden_size
        for layer in layers:
            for linear in BOTTLENECK_LINEARS:
                module = base.get_submodule(f"model.layers.{layer}.{linear}")
                module.down = nn.Linear(hidden, BOTTLENECK, dtype=base.dtype)
                module.up = nn.Linear(BOTTLENECK, hidden, dtype=base.dtype)
                module.register_forward_hook(lambda m, _x, y: y + m.up(torch.relu(m.down(y))))

    def forward(self, input_ids):
        return self.base_model.model(input_ids=input_ids)


@torch.no_grad()
def bottleneck(name: str, layers: range):
    """All values of the hash, under the names in the base model."""
    model = Bottlenecks(base_model(name), layers)
    for key, parameter in trainable(model).items():
        fan_in = parameter.shape[-1]
        bound = 1.0 / np.sqrt(fan_in) if key.endswith("down.weight") else BOUND_B
        value = uniform(key.removeprefix("base_model.model."), tuple(parameter.shape), bound)
        parameter.copy_(torch.from_numpy(value))
    return model


@dataclass
class Case:
    """A type's adapter on a model."""

    model: str
    kind: str
    layers: range
    # The base with the adapter on, anew at every call.
    build: Callable[[], nn.Module]

    @property
    def folder(self) -> Path:
        return GOLDENS / f"{self.model}_adapter_{self.kind}"


def cases(model: str, layers: range, *kinds: str) -> list[Case]:
    """DoRA's scale is 2.5, that of the other, alpha over the root of the rank, 3."""
    build = {
        "dora": lambda: dora(model, layers, rank=3, alpha=7.5),
        "rslora": lambda: lora(model, layers, rank=4, alpha=6.0, use_rslora=True),
        "bottleneck": lambda: bottleneck(model, layers),
    }
    return [Case(model, kind, layers, build[kind]) for kind in kinds]


def file_key(parameter: str) -> str:
    """The key in PEFT's file, which has DoRA's magnitudes without `.weight`."""
    return parameter.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


def save(case: Case) -> None:
    """The adapter's folder, by PEFT itself where it has the type."""
    shutil.rmtree(case.folder, ignore_errors=True)
    model = case.build().float()
    config = case.folder / "adapter_config.json"
    if isinstance(model, PeftModel):
        model.save_pretrained(case.folder)
        (case.folder / "README.md").unlink()
        written = json.loads(config.read_text())
        # PEFT writes a set in whatever order it comes.
        write_json(config, written | {"target_modules": sorted(written["target_modules"])})
        return
    case.folder.mkdir()
    tensors = {key: value.detach() for key, value in trainable(model).items()}
    save_file(tensors, case.folder / "adapter_model.safetensors", metadata={"format": "pt"})
    about = {
        "peft_type": "BOTTLENECK",
        "base_model_name_or_path": case.model,
        "bottleneck_size": BOTTLENECK,
        "target_modules": sorted(linear.rsplit(".", 1)[1] for linear in BOTTLENECK_LINEARS),
        "layers_to_transform": list(case.layers),
    }
    write_json(config, about)


@torch.no_grad()
def reload(case: Case):
    """The base with the adapter of the folder on."""
    if case.kind != "bottleneck":
        return PeftModel.from_pretrained(base_model(case.model), case.folder).double().eval()
    model = Bottlenecks(base_model(case.model), case.layers)
    parameters = trainable(model)
    stored = load_file(case.folder / "adapter_model.safetensors")
    assert stored.keys() == parameters.keys()
    for key, parameter in parameters.items():
        parameter.copy_(stored[key])
    return model


@torch.no_grad()
def logits(model, ids: np.ndarray) -> torch.Tensor:
    return model(input_ids=torch.from_numpy(ids).long()[None]).logits[0]


def train(model, ids, mask) -> list[float]:
    """The loss before each of ten steps of PyTorch's Adam on one batch."""
    optimizer = torch.optim.Adam(trainable(model).values(), lr=LEARNING_RATE, betas=BETAS, eps=EPS)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = masked_loss(model, ids, mask)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    return losses


def case_golden(case: Case, sequence, ids, mask) -> dict[str, np.ndarray]:
    """The tensors of one type, without its name before them."""
    save(case)
    model = case.build()
    seen, base = logits(model, sequence), logits(base_model(case.model), sequence)
    assert torch.equal(seen, logits(reload(case), sequence)), "the folder holds the adapter"
    loss = masked_loss(model, ids, mask)
    loss.backward()
    grads = {key: parameter.grad for key, parameter in trainable(model).items()}
    # Caching holds DoRA's norms, which have no gradient by its definition.
    with DoraCaching():
        check_by_differences(model, ids, mask, grads)
    stored = load_file(case.folder / "adapter_model.safetensors").keys()
    assert {file_key(key) for key in grads} == stored, "the file's keys are the gradients'"
    losses = train(case.build(), ids, mask)
    apart = ((seen - base).norm() / base.norm()).item()
    flat = min(grad.abs().max().item() for grad in grads.values())
    print(f"{case.model} {case.kind}: logits {apart:.2f} from the base's")
    print(f"  {len(grads)} gradients, the flattest reaches {flat:.1e}")
    print(f"  loss {losses[0]:.6f} -> {losses[-1]:.6f}")
    tensors = {
        "logits": f32(seen),
        "loss": np.array([loss.item()], np.float64),
        "losses": np.array(losses, np.float64),
    }
    return tensors | {f"grad.{file_key(key)}": f32(grad) for key, grad in grads.items()}


def model_golden(name: str, layers: range, *kinds: str) -> None:
    """The folders of the model's adapters, and one file of what they give."""
    vocab = load(GOLDENS / name).config.vocab_size
    sequence, (ids, mask) = random_ids(SEED, SEQUENCE_TOKENS, vocab), ragged_batch(vocab)
    tensors = {
        "sequence": sequence,
        "input_ids": ids,
        "target_mask": mask,
        "lengths": np.array(LENGTHS, np.int32),
    }
    for case in cases(name, layers, *kinds):
        found = case_golden(case, sequence, ids, mask)
        tensors |= {f"{case.kind}.{key}": value for key, value in found.items()}
    packages = ("torch", "transformers", "peft", "numpy")
    digest = sha256(GOLDENS / name / "model.safetensors")
    header = provenance(f"data/goldens/{name}", digest, SEED, *packages)
    about = {"layers": list(layers), "learning_rate": LEARNING_RATE, "betas": BETAS, "eps": EPS}
    save_tensors(GOLDENS / f"{name}_adapter_types.safetensors", tensors, header | about)


def main() -> None:
    torch.set_num_threads(1)
    model_golden("tiny", range(1, 3), "dora", "rslora", "bottleneck")
    # Its attention has biases, which DoRA leaves as they are.
    model_golden("tiny_odd", range(1, 2), "dora")


if __name__ == "__main__":
    main()
