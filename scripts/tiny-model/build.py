#!/usr/bin/env python3
"""Makes the tiny model of the page from nothing: text, tokenizer, training, GGUF file.

    pip install -r scripts/tiny-model/requirements.txt
    python scripts/tiny-model/build.py

Takes some minutes on two cores. Prints what the model can do, as data/models/README.md tells it.
"""

import argparse
import hashlib
import json
import math
import os
import random
import time
from pathlib import Path

# Threads that wait for work would otherwise keep others from theirs on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from model import Config, Llama, train_tokenizer, write_gguf
from text import SMALL_TALK, Text, conversion
from torch.nn import functional as F

OUT = Path(__file__).resolve().parents[2] / "data" / "models" / "engram-tiny.gguf"
ABOUT = {
    "name": "Engram Tiny",
    "description": "A model of less than a million weights that knows next to nothing, made to "
    "be taught. Trained by scripts/tiny-model of the Engram repository on its own text alone.",
    "licence": "MIT OR Apache-2.0",
}
PAD = 0
EXCHANGES = 32
# Turns in a chat, and how many batches of a hundred are of such chats. Single turns count most;
# the others teach it to answer the last one, and positions up to the end of its context.
TURNS = ((1, 70), (2, 10), (4, 10), (16, 10))


def chat(exchanges: list[tuple[str, str]]) -> str:
    """As the chat template writes it."""
    return "".join(
        f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
        for asked, answer in exchanges
    )


def batches(text: Text, tokenizer, limit: int):
    """Endless batches [B, T]; all of about the same number of tokens."""
    rng = random.Random(text.rng.random())
    counts, weights = zip(*TURNS, strict=True)
    while True:
        turns = rng.choices(counts, weights)[0]
        rows = []
        for _ in range(EXCHANGES // turns):
            written = chat([text.exchange() for _ in range(turns)])
            draw = rng.random()
            if turns == 1 and draw < 0.08:
                # Without the chat form: a text that begins with the question.
                asked, answer = text.exchange()
                written = f"{asked}\n{answer}<|im_end|>"
            elif draw < 0.12:
                system = rng.choice(("You are a helpful assistant.", "You are a small model."))
                written = f"<|im_start|>system\n{system}<|im_end|>\n{written}"
            rows.append(tokenizer.encode(written).ids[:limit])
        width = max(map(len, rows))
        yield torch.tensor([row + [PAD] * (width - len(row)) for row in rows])


def train(model: Llama, text: Text, tokenizer, steps: int, peak: float) -> None:
    matrices = [p for p in model.parameters() if p.ndim == 2]
    norms = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), fused=True)
    source = batches(text, tokenizer, model.config.max_position_embeddings)
    started, total = time.monotonic(), 0.0
    for step in range(steps):
        rate = min((step + 1) / 100, 0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = peak * rate
        ids = next(source)
        logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=PAD)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += loss.item()
        if (step + 1) % 100 == 0:
            seconds = time.monotonic() - started
            print(f"step {step + 1}: loss {total / 100:.3f}, {seconds:.0f} s", flush=True)
            total = 0.0


@torch.no_grad()
def answer(model: Llama, tokenizer, asked: str, most: int = 60) -> tuple[str, float]:
    """The greedy answer, and the least distance of a best logit from the second on the way."""
    end = tokenizer.token_to_id("<|im_end|>")
    prompt = f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.encode(prompt).ids
    new, margin = [], math.inf
    while len(new) < most:
        best = model(torch.tensor([ids + new]))[0, -1].topk(2)
        margin = min(margin, (best.values[0] - best.values[1]).item())
        new.append(best.indices[0].item())
        if new[-1] == end:
            new.pop()
            break
    return tokenizer.decode(new, skip_special_tokens=False), margin


def report(model: Llama, tokenizer, patterns: list[dict]) -> None:
    margins = []

    def ask(asked: str) -> str:
        text, margin = answer(model, tokenizer, asked)
        margins.append((margin, asked))
        return text

    exact, contained, count = {}, 0, {}
    for pattern in patterns:
        said, form = ask(pattern["input"]), pattern["form"]
        count[form] = count.get(form, 0) + 1
        exact[form] = exact.get(form, 0) + (said.strip() == pattern["output"])
        contained += pattern["output"] in said
    right = sum(exact.values())
    print(f"patterns: {right} of {len(patterns)} right, {contained} contain the answer")
    for form, known in exact.items():
        print(f"  {form}: {known} of {count[form]} right")
    talk = [(question, said) for said, questions in SMALL_TALK for question in questions]
    print(f"small talk: {sum(ask(q) == said for q, said in talk)} of {len(talk)} as written")
    rng = random.Random(1)
    right, asked = {}, {}
    for _ in range(100):
        category, value, made = conversion(rng)
        asked[category] = asked.get(category, 0) + 1
        right[category] = right.get(category, 0) + ask(value).endswith(made)
    for category in sorted(asked):
        print(f"{category}, unseen: {right[category]} of {asked[category]}")
    margins.sort()
    print("least margins:", ", ".join(f"{margin:.4f} {asked!r}" for margin, asked in margins[:5]))
    print(f"largest weight: {max(p.abs().max().item() for p in model.parameters()):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="where to write the GGUF file")
    parser.add_argument("--seed", type=int, default=7, help="of the text and of the weights")
    parser.add_argument("--steps", type=int, default=1500, help="batches to train on")
    parser.add_argument("--lr", type=float, default=4e-3, help="highest learning rate")
    parser.add_argument("--threads", type=int, default=2, help="the result depends on them")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)

    corpus = Text(options.seed)
    tokenizer = train_tokenizer(
        ["\n".join(corpus.exchange()) for _ in range(20_000)], Config.vocab_size
    )
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]

    model = Llama(Config())
    print(f"{sum(p.numel() for p in model.parameters())} weights")
    text = Text(options.seed + 1)
    train(model, text, tokenizer, options.steps, options.lr)
    model.round_as_stored()
    write_gguf(options.out, model, tokenizer, merges, ABOUT)
    size, digest = options.out.stat().st_size, hashlib.sha256(options.out.read_bytes()).hexdigest()
    print(f"{options.out}: {size} bytes, sha256 {digest}")
    report(model, tokenizer, text.patterns)


if __name__ == "__main__":
    main()
