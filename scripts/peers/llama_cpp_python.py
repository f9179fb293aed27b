"""llama.cpp by llama-cpp-python: on the CPU, or on Vulkan with `gpu_layers`."""

import time
from itertools import islice

import llama_cpp

from peers.part import main, rates


def decode(settings: dict) -> dict:
    layers = settings.get("gpu_layers", 0)
    if layers and not llama_cpp.llama_supports_gpu_offload():
        raise SystemExit("llama-cpp-python finds no Vulkan adapter, or was built without Vulkan")
    model = llama_cpp.Llama(
        settings["gguf"],
        n_ctx=512,
        n_gpu_layers=layers,
        n_threads=settings["threads"],
        n_threads_batch=settings["threads"],
        verbose=bool(layers),
    )
    prompt = model.tokenize(settings["prompt"].encode(), add_bos=False)
    begin = time.perf_counter()
    tokens = model.generate(prompt, temp=0.0, repeat_penalty=1.0)
    new = [next(tokens)]
    first = time.perf_counter()
    new += islice(tokens, settings["new_tokens"] - 1)
    text = model.detokenize(new).decode(errors="replace")
    return {"version": llama_cpp.__version__} | rates(prompt, new, begin, first, text)


if __name__ == "__main__":
    main(decode)
