"""Our own engines, by the command `engram`."""

import json
import re
from pathlib import Path

from peers.process import Failed, run
from peers.settings import LORA, NEW_TOKENS, PROMPT, REPEATS

ENGINES = {
    "engram-wgpu": ["--engine", "wgpu"],
    "engram-burn-wgpu": ["--engine", "burn", "--device", "wgpu"],
    "engram-burn-cpu": ["--engine", "burn", "--device", "cpu"],
}
STATISTICS = re.compile(
    r"prompt (\d+) tokens, ([\d.]+) tokens/s.* decode (\d+) tokens, ([\d.]+) tokens/s"
)
ADAPTER = re.compile(r"^0: (.*?) \(\w+, \w+;", re.MULTILINE)


def binary(args, name: str) -> Path:
    return args.burn_wgpu if name == "engram-burn-wgpu" else args.engram


def about(args, name: str) -> dict:
    """Its version and where it computes."""
    engram = binary(args, name)
    version = run(args, engram, "--version").stdout.split()[-1]
    if name.endswith("-cpu"):
        return {"version": version, "device": "CPU"}
    adapter = ADAPTER.search(run(args, engram, "devices").stdout)
    return {"version": version} | ({"device": adapter[1]} if adapter else {})


def train(args, name: str) -> dict:
    folder = args.out / name
    metrics = folder / "metrics.jsonl"
    metrics.unlink(missing_ok=True)
    flags = {
        "--model": args.gguf,
        "--data": args.out / "epoch",
        "--adapter-path": folder,
        # Batches in an order that numpy gives too; Adam as PyTorch has it.
        "--semantics": "mlx",
        "--bias-correction": "true",
        "--seed": LORA["seed"],
        "--iters": args.steps,
        "--batch-size": LORA["batch_size"],
        "--num-layers": LORA["num_layers"],
        "--rank": LORA["rank"],
        "--scale": LORA["scale"],
        "--learning-rate": LORA["learning_rate"],
        "--val-batches": 0,
        "--steps-per-report": 1,
    }
    words = (word for flag in flags.items() for word in flag)
    run(args, binary(args, name), "train", *ENGINES[name], *words, limit=args.limit)
    reports = [json.loads(line) for line in metrics.read_text().splitlines()]
    return about(args, name) | {
        "steps": [1.0 / report["iterations_per_second"] for report in reports],
        "losses": [report["train_loss"] for report in reports],
    }


def decode(args, name: str) -> dict:
    command = ("generate", *ENGINES[name], "--model", args.gguf, "--raw", PROMPT)
    greedy = ("--temperature", 0, "--max-new-tokens", NEW_TOKENS)
    result = run(args, binary(args, name), *command, *greedy, limit=args.limit)
    found = STATISTICS.search(result.stderr)
    if found is None:
        raise Failed("no statistics in what engram generate wrote")
    prompt, prefill, _, decoded = (float(number) for number in found.groups())
    return about(args, name) | {
        "prompt_tokens": int(prompt),
        "prefill": prefill,
        "decode": decoded,
        "text": result.stdout,
    }


def inferena(args, name: str) -> dict:
    engram = binary(args, name)
    if "inferena" not in run(args, engram, "bench", "--help").stdout:
        raise Failed("this build's engram bench has no inferena")
    path = args.out / f"{name}-inferena.json"
    # burn's weights are f32 anyway.
    weights = ("--quantize", "f32") if name == "engram-wgpu" else ()
    command = ("bench", "inferena", *ENGINES[name], "--model", args.gguf, *weights)
    run(args, engram, *command, "--runs", REPEATS, "--json", path, limit=args.limit)
    figures = {figure["name"]: figure for figure in json.loads(path.read_text())["figures"]}
    found = {
        key: figures[f"inferena {figure}"]["runs"]
        for key, figure in (
            ("forward_ms", "forward"),
            ("one_token_ms", "one token"),
            ("step_ms", "training step"),
        )
        if f"inferena {figure}" in figures
    }
    if "inferena loss" in figures:
        found["loss"] = figures["inferena loss"]["median"]
    found |= {"weights": "f32"}
    if "step_ms" not in found:
        found["note"] = "this build's engram bench has no training step of all weights"
    return about(args, name) | found
