"""Makes the goldens of the built-in model: sampled logits, greedy continuations, LoRA gradients.

    python scripts/goldens/real.py FOLDER [--only logits|greedy|gradients] [--full PATH]

FOLDER is what dequantize.py wrote. `--full` also writes all logits of the 128 positions (25 MB)
for a comparison by hand. Logits and gradients are computed in float64, greedy text in float32.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from common import (
    GOLDENS,
    hash_adapter,
    linear_dims,
    peft_key,
    positions,
    provenance,
    save_json,
    save_tensors,
)
from oracle import adapt, load, masked_loss, trainable
from transformers import AutoTokenizer

PACKAGES = ("torch", "transformers", "peft", "numpy", "gguf")
TEXT_TOKENS = 128
SAMPLED_VOCABULARY = 64
NEW_TOKENS = 32
LAYERS = range(14, 30)
RANK, SCALE = 8, 20.0
# Small enough that the adapted model still speaks, large enough that lora_a has a gradient.
BOUND_B = 0.01
SAMPLED_GRADIENTS = 128

TEXT = """\
The lighthouse keeper wrote in her log every evening. On 14 March 1987 the wind came from \
the north-west at 32 knots, the barometer read 998 hPa, and the lamp burned for eleven hours \
without a fault. "Nobody passed," she noted, "except a fishing boat and two swans." Years later \
a student typed the pages into a small program:

def total_hours(entries: list[dict]) -> float:
    return sum(entry["hours"] for entry in entries if entry.get("lit", False))

The answer surprised him. Über die Jahre hatte die Lampe länger gebrannt als irgendeine andere \
an der Küste, and the village gave a party for it: music, soup, bread and far too many speeches."""

RAW, CHAT = "raw", "chat"
PROMPTS = [
    (RAW, "The capital of France is"),
    (RAW, "Once upon a time, in a small village by the sea,"),
    (RAW, "Water boils at a temperature of"),
    (RAW, "def fibonacci(n):\n"),
    (RAW, "for i in range(10):\n    "),
    (RAW, "import numpy as np\n\ndef softmax(x):\n"),
    (RAW, "SELECT name, COUNT(*) FROM users"),
    (RAW, "Q: Who wrote Romeo and Juliet?\nA:"),
    (RAW, "1, 1, 2, 3, 5, 8,"),
    (RAW, "La capitale de l'Italie est"),
    (RAW, '{"name": "Ada", "born":'),
    (RAW, "The three primary colours are"),
    (CHAT, "What is the capital of Japan?"),
    (CHAT, "Write a haiku about the sea."),
    (CHAT, "Write a Python function that reverses a string."),
    (CHAT, "Explain in one sentence what a GPU is."),
    (CHAT, "Fix this error: NameError: name 'x' is not defined"),
    (CHAT, "Convert to JSON: name = Bob, age = 41"),
    (CHAT, "How many days are in a leap year?"),
    (CHAT, "List three fruits that are red."),
]
CHATS = [
    ("What is the chemical symbol of gold?", "Au"),
    ("Complete: with open(path) as f:", "\n    data = f.read()"),
    ("Convert to snake_case: maxRetryCount", "max_retry_count"),
    (
        "Fix: TypeError: can only concatenate str (not \"int\") to str",
        "Convert the number first: \"total: \" + str(count), or use an f-string.",
    ),
]


def header(folder: Path, seed=None) -> dict:
    source = json.loads((folder / "source.json").read_text())
    return provenance(source["file"], source["sha256"], seed, *PACKAGES)


def logits_golden(folder: Path, full: Path | None) -> None:
    """Per position: log-sum-exp, best id, its lead over the second, 64 logits at random ids."""
    ids = AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"][:TEXT_TOKENS]
    assert len(ids) == TEXT_TOKENS, len(ids)
    with torch.no_grad():
        logits = load(folder)(input_ids=torch.tensor([ids])).logits[0]
    best = logits.topk(2).values
    seed = "real_logits.sampled_ids"
    sampled = positions(seed, TEXT_TOKENS * SAMPLED_VOCABULARY, logits.shape[1])
    sampled = torch.from_numpy(sampled.reshape(TEXT_TOKENS, SAMPLED_VOCABULARY))
    tensors = {
        "input_ids": torch.tensor(ids, dtype=torch.int32),
        "logsumexp": logits.logsumexp(-1).float(),
        "argmax": logits.argmax(-1).int(),
        "margin": (best[:, 0] - best[:, 1]).float(),
        "sampled_ids": sampled.int(),
        "sampled_logits": logits.gather(1, sampled).float(),
    }
    print(f"logits: std {logits.std():.3f}, smallest margin {tensors['margin'].min():.2e}")
    arrays = {name: value.numpy() for name, value in tensors.items()}
    save_tensors(GOLDENS / "real_logits.safetensors", arrays, header(folder, seed))
    if full is not None:
        everything = {"input_ids": arrays["input_ids"], "logits": logits.float().numpy()}
        save_tensors(full, everything, header(folder))


def greedy(model, ids: list[int], count: int):
    """`count` greedy tokens and at each the lead of the best logit; end tokens do not stop it."""
    new, margins, cache = [], [], None
    step = torch.tensor([ids])
    for _ in range(count):
        out = model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        values, indices = out.logits[0, -1].topk(2)
        new.append(indices[0].item())
        margins.append(round((values[0] - values[1]).item(), 5))
        step = indices[:1][None]
    return new, margins


def greedy_golden(folder: Path) -> None:
    """Twenty prompts, 32 tokens each."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), load(folder, torch.float32)
    rows = []
    for kind, prompt in PROMPTS:
        if kind == CHAT:
            messages = [{"role": "user", "content": prompt}]
            text = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False
            )
        else:
            text = prompt
        ids = tokenizer(text)["input_ids"]
        with torch.no_grad():
            new, margins = greedy(model, ids, NEW_TOKENS)
        rows.append(
            {
                "kind": kind,
                "prompt": prompt,
                "prompt_ids": ids,
                "new_ids": new,
                "margins": margins,
                "text": tokenizer.decode(new),
            }
        )
        print(f"greedy: {prompt[:30]!r} -> {rows[-1]['text'][:50]!r}, {min(margins):.1e}")
    save_json(GOLDENS / "real_greedy.json", {"prompts": rows}, header(folder))


def chat_batch(tokenizer):
    """The four examples as MLX-LM would batch them, without its padding to 32.

    ids [4, T] padded with 0; mask [4, T-1] of targets: every real token after the first.
    """
    rows = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": q}, {"role": "assistant", "content": a}],
            return_dict=False,
        )
        for q, a in CHATS
    ]
    ids = np.zeros((len(rows), max(map(len, rows))), np.int32)
    mask = np.zeros((ids.shape[0], ids.shape[1] - 1), np.uint8)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row) - 1] = 1
    return ids, mask, np.array([len(row) for row in rows], np.int32)


def gradients_golden(folder: Path) -> None:
    """One batch: the loss, and of every gradient its norm and 128 entries at random places."""
    ids, mask, lengths = chat_batch(AutoTokenizer.from_pretrained(folder))
    base = load(folder)
    with torch.no_grad():
        base_loss = masked_loss(base, ids, mask).item()
    values = hash_adapter(LAYERS, linear_dims(base.config), RANK, BOUND_B)
    model = adapt(base, LAYERS, RANK, SCALE, values)
    loss = masked_loss(model, ids, mask)
    loss.backward()
    parameters = trainable(model)
    tensors = {"input_ids": ids, "target_mask": mask, "lengths": lengths}
    tensors["loss"] = np.array([loss.item(), base_loss], np.float64)
    norms, samples = [], []
    for key in values:
        gradient = parameters[peft_key(key)].grad.T.contiguous().reshape(-1)
        norms.append(gradient.norm().item())
        at = positions(f"{key}.sampled", SAMPLED_GRADIENTS, gradient.numel())
        samples.append(gradient[torch.from_numpy(at)].numpy())
    tensors["grad_norms"] = np.array(norms, np.float32)
    tensors["grad_samples"] = np.array(samples, np.float32)
    norm = np.linalg.norm(norms)
    print(f"gradients: base loss {base_loss:.4f}, adapted {loss.item():.4f}, norm {norm:.4f}")
    about = {
        "layers": [LAYERS.start, LAYERS.stop - 1],
        "rank": RANK,
        "scale": SCALE,
        "lora_b_bound": BOUND_B,
        "tensors": list(values),
    }
    # Names in the order of the rows, in MLX's spelling and layout.
    path = GOLDENS / "real_lora_grads.safetensors"
    save_tensors(path, tensors, header(folder, "fnv1a64(name)") | about)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=("logits", "greedy", "gradients"))
    parser.add_argument("--full", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.only in (None, "logits"):
        logits_golden(args.folder, args.full)
    if args.only in (None, "gradients"):
        gradients_golden(args.folder)
    if args.only in (None, "greedy"):
        greedy_golden(args.folder)


if __name__ == "__main__":
    main()
