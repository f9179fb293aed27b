"""Who is measured, where, and how."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from peers import engram, installs
from peers.process import Failed, run
from peers.settings import settings

# A step of LoRA training; a prompt and what follows it; the inferena protocol.
WHAT = ("train", "decode", "inferena")
VULKAN, CPU, PAGE = "Vulkan", "CPU", "Chromium"
WEB = Path(__file__).resolve().parent / "web"
VULKAN_DEVICE = re.compile(r"ggml_vulkan: 0 = (.*?)(?: \(\w+\))? \|")


@dataclass
class Peer:
    """One of them: `measurements` by name, and why there are no others."""

    place: str
    weights: str
    measurements: dict[str, Callable]
    missing: dict[str, str] = field(default_factory=dict)
    install: Callable = installs.base


def ours(name: str, place: str, weights: str) -> Peer:
    functions = {"train": engram.train, "decode": engram.decode, "inferena": engram.inferena}
    measurements = {what: partial(function, name=name) for what, function in functions.items()}
    return Peer(place, weights, measurements)


def module(args, name: str, what: str, python=None, environment=None, **changes):
    """Runs a function of a module of this package under a Python that has the packages."""
    paths = os.pathsep.join(str(path) for path in (WEB.parents[1], installs.GOLDENS))
    text = json.dumps(settings(args) | changes)
    command = (python or args.python, "-m", f"peers.{name}", what, text)
    environment = (environment or {}) | {"PYTHONPATH": paths}
    return run(args, *command, limit=args.limit, **environment)


def by_pytorch(args, what: str) -> dict:
    return json.loads(module(args, "pytorch", what).stdout) | {"device": "CPU"}


def by_mlx(args, what: str) -> dict:
    python = installs.python_of(args.out / "mlx")
    # The BLAS in mlx's wheel is 30 times slower.
    environment = {"LD_PRELOAD": installs.openblas()}
    found = module(args, "mlx_lm_cpu", what, python, environment)
    return json.loads(found.stdout) | {"device": "CPU"}


def by_llama_cpp(args) -> dict:
    return json.loads(module(args, "llama_cpp_python", "decode").stdout) | {"device": "CPU"}


def by_llama_cpp_on_vulkan(args) -> dict:
    python = installs.python_of(args.out / "llama-vulkan")
    # -1: all layers.
    changes = {"gpu_layers": -1, "new_tokens": 8}
    # Unless it is named, it takes no software adapter.
    adapter = {"GGML_VK_VISIBLE_DEVICES": os.environ.get("GGML_VK_VISIBLE_DEVICES", "0")}
    found = module(args, "llama_cpp_python", "decode", python, adapter, **changes)
    device = VULKAN_DEVICE.search(found.stderr)
    if device is None:
        raise Failed("llama.cpp found no Vulkan adapter")
    return json.loads(found.stdout) | {"device": device[1]}


def by_meganeura(args, what: str) -> dict:
    program = args.out / "meganeura" / "release" / "bench-meganeura"
    ids = json.loads(module(args, "token_ids", "encode").stdout)
    changes = {"prompt_ids": ids, "new_tokens": 16, "repeats": 1}
    text = json.dumps(settings(args) | changes)
    found = json.loads(run(args, program, what, args.weights, text, limit=args.limit).stdout)
    if "new_ids" in found:
        new = module(args, "token_ids", "decode", new_ids=found["new_ids"])
        found["text"] = json.loads(new.stdout)
    return {"version": installs.meganeura_version()} | found


def in_page(args, peer: str, what: str, package: str | None = None, **changes) -> dict:
    text = json.dumps(settings(args) | changes)
    result = run(args, "node", WEB / "run.mjs", peer, what, text, limit=args.limit)
    # What the page logs goes elsewhere; the figures are the last line.
    found = json.loads(result.stdout.splitlines()[-1])
    version = installs.npm_version(package) if package else engram.about(args, "-cpu")["version"]
    return {"version": version} | found


def engram_in_page(args, what: str) -> dict:
    epoch = (args.out / "epoch" / "train.jsonl").read_text()
    lora = settings(args)["lora"] | {"iters": PAGE_STEPS}
    return in_page(args, "engram", what, epoch_text=epoch, lora=lora, new_tokens=8)


def by_transformers_js(args, what: str, dtype: str) -> dict:
    package = "@huggingface/transformers"
    return in_page(args, "transformers", what, package, dtype=dtype, new_tokens=PAGE_TOKENS)


def by_wllama(args, webgpu: bool) -> dict:
    return in_page(args, "wllama", "decode", "@wllama/wllama", webgpu=webgpu, new_tokens=16)


def by_web_llm(args) -> dict:
    try:
        return in_page(args, "web-llm", "decode", "@mlc-ai/web-llm", new_tokens=8)
    except Failed as error:
        if "fetch" in str(error):
            reason = "its model library has to be downloaded, and its host is not reached"
            raise Failed(reason) from None
        raise


# Steps and tokens of what takes minutes for each.
PAGE_STEPS = 1
PAGE_TOKENS = 2
NO_TRAINING = "does not train"
NO_LOGITS = "its interface gives no forward of bare ids"


def of(function: Callable, *whats: str) -> dict[str, Callable]:
    return {what: partial(function, what=what) for what in whats}


def transformers_js(weights: str, dtype: str) -> Peer:
    measured = of(partial(by_transformers_js, dtype=dtype), "decode", "inferena")
    return Peer(PAGE, weights, measured, {"train": NO_TRAINING}, installs.onnx)


def wllama(place: str, webgpu: bool) -> Peer:
    missing = {"train": NO_TRAINING, "inferena": NO_LOGITS}
    return Peer(
        place, "Q4_1", {"decode": partial(by_wllama, webgpu=webgpu)}, missing, installs.browser
    )


NO_LLAMA = {
    "train": "llama-cpp-python does not train",
    "inferena": "not measured: its weights are Q4_1",
}
PEERS = {
    "engram-wgpu": ours("engram-wgpu", VULKAN, "Q4_1"),
    "engram-burn-wgpu": ours("engram-burn-wgpu", VULKAN, "f32"),
    "meganeura": Peer(
        VULKAN,
        "f32",
        of(by_meganeura, "decode", "inferena"),
        {"train": "has no LoRA"},
        installs.meganeura,
    ),
    "llama.cpp-vulkan": Peer(
        VULKAN, "Q4_1", {"decode": by_llama_cpp_on_vulkan}, NO_LLAMA, installs.llama_cpp_vulkan
    ),
    "engram-burn-cpu": ours("engram-burn-cpu", CPU, "f32"),
    "pytorch": Peer(CPU, "f32", of(by_pytorch, *WHAT)),
    "mlx": Peer(CPU, "f32", of(by_mlx, *WHAT), install=installs.mlx),
    "llama.cpp": Peer(CPU, "Q4_1", {"decode": by_llama_cpp}, NO_LLAMA),
    "engram-page": Peer(
        PAGE, "Q4_1", of(engram_in_page, "train", "decode"), {"inferena": NO_LOGITS}, installs.page
    ),
    "transformers.js": transformers_js("f32", "fp32"),
    "transformers.js-q4": transformers_js("4 bits", "q4"),
    "wllama-webgpu": wllama(PAGE, webgpu=True),
    "web-llm": Peer(
        PAGE,
        "f32",
        {"decode": by_web_llm},
        {"train": NO_TRAINING, "inferena": NO_LOGITS},
        installs.browser,
    ),
    "wllama": wllama("Chromium, CPU", webgpu=False),
}
