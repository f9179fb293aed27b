"""Makes the tiny random Llamas and their goldens: forward, LoRA gradients, Adam, adapter files.

    python scripts/goldens/tiny.py

Everything is computed in float64 from the stored weights and rounded to f32 at the end. Adapter
values come from `common.uniform`, so that they do not depend on a library's random numbers.
"""

import json
import shutil

import numpy as np
import torch
from common import (
    GOLDENS,
    hash_adapter,
    linear_dims,
    provenance,
    save_json,
    save_tensors,
    sha256,
    splitmix64_array,
)
from oracle import adapt, load, masked_loss, trainable
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

SEED = 20240607
PACKAGES = ("torch", "transformers", "peft", "mlx-lm", "numpy")
FORWARD_TOKENS = 37
LENGTHS = (5, 17, 11)
# Targets before this position do not count: the second sequence has a prompt of six tokens.
OFFSETS = (1, 6, 1)
STEPS = 10
BOUND_B = 0.2
# At 1e-2 the runs without bias correction are chaotic: f32 and f64 end 5 % apart.
LEARNING_RATE = 3e-3
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
WEIGHT_DECAY = 0.1
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = """the cat sat on the mat and the dog ran to the house; this is an example of text
def add(a, b): return a + b
for item in items: print(item)
What is the capital of France? The capital of France is Paris.
Error: cannot find value; add an import statement to the other file there
"""


def write_json(path, value) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def random_weights(config: LlamaConfig, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Weights scaled so that attention is not flat and logits have a deviation of about one."""
    generator = torch.Generator().manual_seed(SEED)
    weights = {}
    for name, value in LlamaForCausalLM(config).state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("norm.weight"):
            noise = 1.0 + 0.2 * noise
        elif name.endswith("bias"):
            noise = 0.3 * noise
        else:
            gain = 1.5 if "q_proj" in name or "k_proj" in name else 1.0
            noise = noise * gain / value.shape[-1] ** 0.5
        weights[name] = noise.to(dtype)
    return weights


def write_model(folder, config: dict, dtype: torch.dtype) -> None:
    """config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    weights = random_weights(LlamaConfig(**config), dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def write_tokenizer(folder) -> None:
    """A byte-level BPE of 160 tokens: four special, printable ASCII with tab and newline, merges.

    Other bytes have no token and are dropped.
    """
    alphabet = sorted(chr(c) for c in range(33, 127)) + ["Ġ", "Ċ", "ĉ"]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=160,
        show_progress=False,
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in special],
        initial_alphabet=alphabet,
    )
    tokenizer.train_from_iterator([CORPUS], trainer)
    assert tokenizer.get_vocab_size() == 160, tokenizer.get_vocab_size()
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "pad_token": "<|pad|>",
            "unk_token": "<|endoftext|>",
            "model_max_length": 256,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHATML,
        },
    )
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": 1, "eos_token_id": [2, 0], "pad_token_id": 3},
    )


# The old spelling of rope in config.json, as published SmolLM2 checkpoints have it.
TINY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
    "torch_dtype": "float32",
}
# The spelling that transformers 5 writes: `rope_parameters`, `dtype`; no head_dim.
TINY_ODD = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 131,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "attention_bias": True,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": [2, 0],
    "pad_token_id": None,
    "dtype": "bfloat16",
}


def header(name: str, seed=SEED) -> dict:
    return provenance(
        f"data/goldens/{name}", sha256(GOLDENS / name / "model.safetensors"), seed, *PACKAGES
    )


def random_ids(seed: int, count: int, vocab: int) -> np.ndarray:
    return (splitmix64_array(seed, count) % np.uint64(vocab)).astype(np.int32)


def f32(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float32).numpy()


def forward_golden(name: str) -> None:
    """Logits, the residual stream after every block, and the normed hidden state."""
    model = load(GOLDENS / name)
    ids = random_ids(SEED, FORWARD_TOKENS, model.config.vocab_size)
    residual = []
    hooks = [model.model.embed_tokens, *model.model.layers]
    for module in hooks:
        module.register_forward_hook(
            lambda _m, _i, out: residual.append(out[0] if isinstance(out, tuple) else out)
        )
    with torch.no_grad():
        ids_tensor = torch.from_numpy(ids).long()[None]
        hidden = model.model(ids_tensor).last_hidden_state
        logits = model.lm_head(hidden)
    stream = torch.stack([value.reshape(FORWARD_TOKENS, -1) for value in residual])
    print(f"{name}: logits std {logits.std():.3f}, residual std {stream.std(dim=(1, 2)).tolist()}")
    save_tensors(
        GOLDENS / f"{name}_forward.safetensors",
        {
            "input_ids": ids,
            "residual": f32(stream),
            "hidden": f32(hidden[0]),
            "logits": f32(logits[0]),
        },
        header(name),
    )


def adapted(name: str, layers: range, rank: int, scale: float):
    """The model with PEFT's adapter on, its values from `common.uniform`."""
    base = load(GOLDENS / name)
    # PEFT copies this path into adapter_config.json.
    base.name_or_path = base.config._name_or_path = f"data/goldens/{name}"
    values = hash_adapter(layers, linear_dims(base.config), rank, BOUND_B)
    return adapt(base, layers, rank, scale, values)


def ragged_batch(vocab: int):
    """ids [3, 17] padded with 0, and the mask [3, 16] of targets that count."""
    width = max(LENGTHS)
    ids = np.zeros((len(LENGTHS), width), np.int32)
    mask = np.zeros((len(LENGTHS), width - 1), np.uint8)
    for row, (length, offset) in enumerate(zip(LENGTHS, OFFSETS, strict=True)):
        ids[row, :length] = random_ids(SEED + 1000 * (row + 1), length, vocab)
        mask[row, offset - 1 : length - 1] = 1
    return ids, mask


def check_by_differences(model, ids, mask, grads) -> None:
    """Central differences on the largest element of every gradient."""
    for name, parameter in trainable(model).items():
        flat, grad = parameter.data.view(-1), grads[name].reshape(-1)
        index, step = grad.abs().argmax().item(), 1e-5
        kept = flat[index].item()
        with torch.no_grad():
            flat[index] = kept + step
            above = masked_loss(model, ids, mask)
            flat[index] = kept - step
            below = masked_loss(model, ids, mask)
            flat[index] = kept
        slope = ((above - below) / (2 * step)).item()
        apart = abs(slope - grad[index].item())
        assert apart <= 1e-6 * max(1.0, abs(slope)), f"{name}: {apart}"


def gradients_golden(name: str, label: str, layers: range, rank: int, scale: float) -> None:
    """Loss and the gradient of every adapter tensor."""
    model = adapted(name, layers, rank, scale)
    ids, mask = ragged_batch(model.config.vocab_size)
    loss = masked_loss(model, ids, mask)
    loss.backward()
    grads = {key: parameter.grad for key, parameter in trainable(model).items()}
    check_by_differences(model, ids, mask, grads)
    tensors = {
        "input_ids": ids,
        "target_mask": mask,
        "lengths": np.array(LENGTHS, np.int32),
        "loss": np.array([loss.item()], np.float64),
    }
    for key, parameter in trainable(model).items():
        tensors[f"lora.{key}"] = f32(parameter)
        tensors[f"grad.{key}"] = f32(grads[key])
    about = {"layers": list(layers), "rank": rank, "scale": scale}
    print(f"{name} {label}: loss {loss.item():.6f}, {len(grads)} gradients")
    save_tensors(
        GOLDENS / f"{name}_lora_grads_{label}.safetensors", tensors, header(name) | about
    )


class Adam:
    """Adam as MLX-LM runs it (no bias correction) and as PyTorch does; `decay` makes it AdamW."""

    def __init__(self, parameters, bias_correction: bool, decay: float = 0.0):
        self.parameters, self.bias_correction, self.decay = parameters, bias_correction, decay
        self.step_count = 0
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]

    @torch.no_grad()
    def step(self):
        self.step_count += 1
        c1 = c2 = 1.0
        if self.bias_correction:
            c1, c2 = 1 - BETA1**self.step_count, 1 - BETA2**self.step_count
        for parameter, (m, v) in zip(self.parameters, self.moments, strict=True):
            m.mul_(BETA1).add_(parameter.grad, alpha=1 - BETA1)
            v.mul_(BETA2).addcmul_(parameter.grad, parameter.grad, value=1 - BETA2)
            parameter.mul_(1 - LEARNING_RATE * self.decay)
            parameter.sub_(LEARNING_RATE * (m / c1) / ((v / c2).sqrt() + EPS))


def optimise(model, make, clip: float | None):
    """Ten steps on one batch: the loss before each, the gradient's norm before clipping."""
    ids, mask = ragged_batch(model.config.vocab_size)
    parameters = trainable(model)
    optimizer = make(list(parameters.values()))
    losses, norms = [], []
    for _ in range(STEPS):
        for parameter in parameters.values():
            parameter.grad = None
        loss = masked_loss(model, ids, mask)
        loss.backward()
        limit = float("inf") if clip is None else clip
        norms.append(torch.nn.utils.clip_grad_norm_(parameters.values(), limit).item())
        losses.append(loss.item())
        optimizer.step()
    with torch.no_grad():
        losses.append(masked_loss(model, ids, mask).item())
    return losses, norms, parameters


def optimiser_golden(name: str, layers: range, rank: int, scale: float) -> None:
    """Six runs of ten steps; those with bias correction are checked against torch.optim."""
    runs = {
        "adam": (False, 0.0, None),
        "adam_bias_correction": (True, 0.0, None),
        "adam_clip": (False, 0.0, 1.0),
        "adam_bias_correction_clip": (True, 0.0, 1.0),
        "adamw": (False, WEIGHT_DECAY, None),
        "adamw_bias_correction": (True, WEIGHT_DECAY, None),
    }
    options = {"lr": LEARNING_RATE, "betas": (BETA1, BETA2), "eps": EPS}
    tensors, report = {}, {}
    for run, (correction, decay, clip) in runs.items():
        model = adapted(name, layers, rank, scale)
        losses, norms, parameters = optimise(
            model, lambda p, c=correction, d=decay: Adam(p, c, d), clip
        )
        if correction:
            model = adapted(name, layers, rank, scale)
            theirs, _, _ = optimise(
                model, lambda p, d=decay: torch.optim.AdamW(p, weight_decay=d, **options), clip
            )
            assert np.allclose(losses, theirs, rtol=1e-9), run
        for key, parameter in parameters.items():
            tensors[f"{run}.{key}"] = f32(parameter)
        report[run] = {
            "bias_correction": correction,
            "weight_decay": decay,
            "clip_norm": clip,
            "losses": losses,
            "grad_norms": norms,
        }
        print(f"{name} {run}: {losses[0]:.4f} -> {losses[-1]:.4f}, norms {norms[0]:.3f}…")
    about = {
        "layers": list(layers),
        "rank": rank,
        "scale": scale,
        "learning_rate": LEARNING_RATE,
        "betas": [BETA1, BETA2],
        "eps": EPS,
        "steps": STEPS,
    }
    save_tensors(GOLDENS / f"{name}_lora_optim.safetensors", tensors, header(name))
    save_json(GOLDENS / f"{name}_lora_optim.json", about | {"runs": report}, header(name))


def tokenizer_golden(name: str) -> None:
    """Ids of a few texts and of two conversations under the tiny chat template."""
    tokenizer = AutoTokenizer.from_pretrained(GOLDENS / name)
    texts = [
        "the cat sat on the mat",
        "def add(a, b):\n\treturn a + b",
        "in 2024, 3.14!",
        "<|im_start|>user<|im_end|>",
        "  two  spaces ",
    ]
    chat = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "Paris"},
    ]
    save_json(
        GOLDENS / f"{name}_tokenizer.json",
        {
            "texts": [
                {"text": text, "ids": ids, "decoded": tokenizer.decode(ids)}
                for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True)
            ],
            "chat": {
                "messages": chat,
                "text": tokenizer.apply_chat_template(chat, tokenize=False),
                "ids": tokenizer.apply_chat_template(chat, return_dict=False),
                "prompt_ids": tokenizer.apply_chat_template(
                    chat[:1], add_generation_prompt=True, return_dict=False
                ),
            },
        },
        header(name, seed=None),
    )


def peft_adapter(name: str, layers: range, rank: int, scale: float):
    """An adapter saved by PEFT itself; returns its logits over the forward golden's ids."""
    folder = GOLDENS / f"{name}_adapter_peft"
    shutil.rmtree(folder, ignore_errors=True)
    model = adapted(name, layers, rank, scale)
    ids = random_ids(SEED, FORWARD_TOKENS, model.config.vocab_size)
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(ids).long()[None]).logits[0]
    model.float().save_pretrained(folder)
    (folder / "README.md").unlink()
    # PEFT writes a set in whatever order it comes.
    config = json.loads((folder / "adapter_config.json").read_text())
    write_json(
        folder / "adapter_config.json",
        config | {"target_modules": sorted(config["target_modules"])},
    )
    keys = set(get_peft_model_state_dict(model))
    assert keys == set(trainable(model)), "the file's keys are the goldens' keys"
    return ids, f32(logits)


def mlx_adapter(name: str, layers: range, rank: int, scale: float) -> np.ndarray:
    """An adapter saved as mlx-lm saves one; returns mlx-lm's own logits, in f32."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
    from mlx_lm.utils import load_model, save_config

    folder = GOLDENS / f"{name}_adapter_mlx"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    parameters = {"rank": rank, "scale": scale, "dropout": 0.0}
    model, config = load_model(GOLDENS / name)
    model.freeze()
    linear_to_lora_layers(model, len(layers), parameters)
    dims = linear_dims(LlamaConfig(**TINY))
    values = hash_adapter(layers, dims, rank, BOUND_B)
    model.load_weights([(key, mx.array(value)) for key, value in values.items()], strict=False)
    trained = dict(tree_flatten(model.trainable_parameters()))
    assert trained.keys() == values.keys()
    mx.save_safetensors(str(folder / "adapters.safetensors"), trained)
    save_config(
        {
            "model": f"data/goldens/{name}",
            "fine_tune_type": "lora",
            "num_layers": len(layers),
            "lora_parameters": parameters,
        },
        folder / "adapter_config.json",
    )
    fresh, _ = load_model(GOLDENS / name)
    fresh = load_adapters(fresh, str(folder))
    ids = random_ids(SEED, FORWARD_TOKENS, config["vocab_size"])
    return np.array(fresh(mx.array(ids)[None])[0].astype(mx.float32))


def adapter_goldens(name: str, layers: range, rank: int, scale: float) -> None:
    """The same adapter in both libraries' files, and the logits with it on."""
    ids, peft_logits = peft_adapter(name, layers, rank, scale)
    mlx_logits = mlx_adapter(name, layers, rank, scale)
    apart = np.linalg.norm(mlx_logits - peft_logits) / np.linalg.norm(peft_logits)
    print(f"{name} adapters: mlx against peft, relative L2 {apart:.2e}")
    assert apart < 1e-5
    tensors = {"input_ids": ids, "logits": peft_logits}
    save_tensors(GOLDENS / f"{name}_adapter_logits.safetensors", tensors, header(name))


def main() -> None:
    torch.set_num_threads(1)
    write_model(GOLDENS / "tiny", TINY, torch.float32)
    write_tokenizer(GOLDENS / "tiny")
    write_model(GOLDENS / "tiny_odd", TINY_ODD, torch.bfloat16)
    tokenizer_golden("tiny")
    forward_golden("tiny")
    forward_golden("tiny_odd")
    gradients_golden("tiny", "last2_r4", range(1, 3), rank=4, scale=2.5)
    gradients_golden("tiny", "all_r3", range(3), rank=3, scale=2.0)
    gradients_golden("tiny_odd", "last1_r5", range(1, 2), rank=5, scale=1.0)
    optimiser_golden("tiny", range(1, 3), rank=4, scale=2.5)
    adapter_goldens("tiny", range(1, 3), rank=4, scale=2.5)


if __name__ == "__main__":
    main()
