"""PyTorch with PEFT, on the CPU, in f32."""

import time

import torch
from common import hash_adapter, linear_dims
from oracle import adapt, load, masked_loss, trainable
from transformers import AutoTokenizer

from peers.batches import batches
from peers.part import main, milliseconds, rates

ABOUT = {"version": torch.__version__.split("+")[0]}


def train(settings: dict) -> dict:
    lora = settings["lora"]
    base = load(settings["weights"], torch.float32)
    blocks = base.config.num_hidden_layers
    layers = range(blocks - lora["num_layers"], blocks)
    initial = hash_adapter(layers, linear_dims(base.config), lora["rank"], bound_b=0.0)
    model = adapt(base, layers, lora["rank"], lora["scale"], initial)
    optimizer = torch.optim.Adam(trainable(model).values(), lr=lora["learning_rate"])
    steps, losses = [], []
    for ids, mask in batches(settings):
        begin = time.perf_counter()
        optimizer.zero_grad()
        loss = masked_loss(model, ids, mask)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        steps.append(time.perf_counter() - begin)
    return ABOUT | {"steps": steps, "losses": losses}


def decode(settings: dict) -> dict:
    tokenizer = AutoTokenizer.from_pretrained(settings["weights"])
    model = load(settings["weights"], torch.float32)
    prompt, new, cache = tokenizer(settings["prompt"])["input_ids"], [], None
    ids, begin = prompt, time.perf_counter()
    with torch.inference_mode():
        while len(new) < settings["new_tokens"]:
            step = {"input_ids": torch.tensor([ids]), "past_key_values": cache, "logits_to_keep": 1}
            seen = model(**step, use_cache=True)
            cache, ids = seen.past_key_values, [seen.logits[0, -1].argmax().item()]
            new += ids
            if len(new) == 1:
                first = time.perf_counter()
    return ABOUT | rates(prompt, new, begin, first, tokenizer.decode(new))


def inferena(settings: dict) -> dict:
    model = load(settings["weights"], torch.float32)
    inputs, targets = torch.tensor([settings["inputs"]]), torch.tensor(settings["targets"])

    def forward(ids) -> torch.Tensor:
        with torch.inference_mode():
            return model(input_ids=ids, use_cache=False).logits

    def step() -> float:
        model.zero_grad()
        logits = model(input_ids=inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[0, : len(targets)], targets)
        loss.backward()
        return loss.item()

    repeats = settings["repeats"]
    return ABOUT | {
        "forward_ms": milliseconds(repeats, lambda: forward(inputs)),
        "one_token_ms": milliseconds(repeats, lambda: forward(inputs[:, :1])),
        "step_ms": milliseconds(repeats, step),
        "loss": step(),
    }


if __name__ == "__main__":
    main(train, decode, inferena)
