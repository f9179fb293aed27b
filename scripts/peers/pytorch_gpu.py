"""PyTorch on a GPU by the inferena protocol: milliseconds of SmolLM2-135M in f32 on ids 0 to 127.

Prints JSON. The weights are random, which takes as long; the loss is left out for it.
"""

import json
import statistics
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

RUNS = 20
CONFIG = LlamaConfig(
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    vocab_size=49152,
    rope_theta=100000,
    tie_word_embeddings=True,
)


def milliseconds(once) -> dict:
    times = []
    for run in range(RUNS + 3):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        once()
        torch.cuda.synchronize()
        if run >= 3:
            times.append(1e3 * (time.perf_counter() - begin))
    return {"median": statistics.median(times), "runs": times}


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("pytorch_gpu.py: torch sees no GPU")
    model = LlamaForCausalLM(CONFIG).cuda()
    ids = torch.arange(128, device="cuda")[None]

    @torch.inference_mode()
    def forward(tokens) -> None:
        model(input_ids=tokens, use_cache=False)

    def step() -> None:
        model.zero_grad()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()

    report = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(),
        "forward_ms": milliseconds(lambda: forward(ids)),
        "one_token_ms": milliseconds(lambda: forward(ids[:, :1])),
        "step_ms": milliseconds(step),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
