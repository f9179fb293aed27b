"""The training batches of an epoch, in MLX's order, for the peers that are Python libraries."""

import json
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer


def batches(settings: dict):
    """Ids and which of their targets count: [batch, width], [batch, width - 1]."""
    lora = settings["lora"]
    size = lora["batch_size"]
    tokenizer = AutoTokenizer.from_pretrained(settings["weights"])
    lines = Path(settings["epoch"]).read_text().splitlines()
    chats = [json.loads(line)["messages"] for line in lines]
    examples = [tokenizer.apply_chat_template(chat, return_dict=False) for chat in chats]
    np.random.seed(lora["seed"])
    for group in np.random.permutation(len(examples) // size)[: lora["iters"]]:
        batch = examples[group * size :][:size]
        # As in MLX, the pad after each sequence is a target.
        width = 1 + max(len(ids) for ids in batch)
        ids = np.array([ids + [0] * (width - len(ids)) for ids in batch])
        yield ids, np.array([[place < len(ids) for place in range(width - 1)] for ids in batch])
