"""Makes the goldens of mlx-lm's training loop: batches, losses and weights on the tiny model.

    python scripts/goldens/mlx_training.py

mlx-lm itself trains data/goldens/tiny on a dozen conversations, written beside the results.
"""

import json
import shutil
import tempfile

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from common import GOLDENS, hash_adapter, linear_dims, provenance, save_json, save_tensors, sha256
from mlx.utils import tree_flatten
from mlx_lm.tuner import trainer
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.tuner.datasets import CacheDataset, create_dataset
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load
from transformers import AutoConfig

FOLDER = GOLDENS / "tiny_mlx"
SEED = 7
LAYERS = range(1, 3)
RANK, SCALE = 4, 2.5
ITERS, BATCH, LEARNING_RATE = 8, 2, 1e-3
# Less than the longest conversation, so that one is truncated.
MAX_TOKENS = 60
PERMUTATIONS = (67, 17, 17, 67, 17, 5, 2, 1)

TRAIN = [
    ("hi", "hello"),
    ("add 2 and 3", "5"),
    ("the capital of France?", "Paris"),
    ("for item in items:", "    print(item)"),
    ("say cat", "cat"),
    ("def add(a, b):", "    return a + b"),
    ("What is the capital of Italy, and what is it known for in the whole world?", "Rome"),
    ("to upper: abc", "ABC"),
    ("fix: imprt os", "import os"),
    ("the dog ran to", "the house and sat on the mat by the fire, then it ran to the other house"),
    ("last one, dropped with the remainder", "yes"),
]
VALID = [
    ("hello", "hi"),
    ("add 4 and 5", "9"),
    ("the capital of Spain?", "Madrid"),
    ("print the items", "for item in items: print(item)"),
    ("say dog", "dog"),
    ("to upper: x", "X"),
    ("never used: the remainder", "no"),
]


def write_data() -> None:
    for name, pairs in (("train", TRAIN), ("valid", VALID)):
        lines = [
            {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
            for q, a in pairs
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (FOLDER / f"{name}.jsonl").write_text(text)


def read_data(name: str, tokenizer, mask_prompt: bool) -> CacheDataset:
    lines = (FOLDER / f"{name}.jsonl").read_text().splitlines()
    config = type("Config", (), {"mask_prompt": mask_prompt})
    return CacheDataset(create_dataset([json.loads(line) for line in lines], tokenizer, config))


class Losses(TrainingCallback):
    """Losses by iteration; mlx-lm counts the iterations done before a validation."""

    def __init__(self):
        self.train, self.val, self.tokens = {}, {}, {}

    def on_train_loss_report(self, info):
        self.train[info["iteration"]] = info["train_loss"]
        self.tokens[info["iteration"]] = info["trained_tokens"]

    def on_val_loss_report(self, info):
        self.val[info["iteration"] + 1] = info["val_loss"]


def run(mask_prompt: bool, accumulate: int):
    """One training; returns its losses, batches in the order they were used, final weights."""
    model, tokenizer = load(str(GOLDENS / "tiny"))
    model.freeze()
    parameters = {"rank": RANK, "scale": SCALE, "dropout": 0.0}
    linear_to_lora_layers(model, len(LAYERS), parameters)
    dims = linear_dims(AutoConfig.from_pretrained(GOLDENS / "tiny"))
    # lora_b starts at zero, as mlx-lm has it; lora_a comes from the hash, not from mx.random.
    initial = hash_adapter(LAYERS, dims, RANK, bound_b=0.0)
    model.load_weights([(name, mx.array(value)) for name, value in initial.items()], strict=False)

    batches = []

    def recorded(*args, **kwargs):
        for ids, spans in trainer.iterate_batches(*args, **kwargs):
            if kwargs.get("loop"):
                batches.append((np.array(ids), np.array(spans)))
            yield ids, spans

    losses = Losses()
    arguments = trainer.TrainingArgs(
        batch_size=BATCH,
        iters=ITERS,
        val_batches=25,
        steps_per_report=1,
        steps_per_eval=4,
        steps_per_save=1000,
        max_seq_length=MAX_TOKENS,
        grad_accumulation_steps=accumulate,
    )
    np.random.seed(SEED)
    mx.random.seed(SEED)
    with tempfile.TemporaryDirectory() as folder:
        arguments.adapter_file = f"{folder}/adapters.safetensors"
        trainer.train(
            model=model,
            optimizer=optim.Adam(learning_rate=LEARNING_RATE),
            train_dataset=read_data("train", tokenizer, mask_prompt),
            val_dataset=read_data("valid", tokenizer, mask_prompt),
            args=arguments,
            iterate_batches=recorded,
            training_callback=losses,
        )
    weights = {k: np.array(v) for k, v in tree_flatten(model.trainable_parameters())}
    return losses, batches[:ITERS], weights


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    write_data()
    model = GOLDENS / "tiny" / "model.safetensors"
    header = provenance("data/goldens/tiny", sha256(model), SEED, "mlx", "mlx-lm", "numpy")
    runs = {"plain": (False, 1), "mask_prompt": (True, 1), "accumulate": (False, 2)}
    report, tensors = {}, {}
    for name, (mask_prompt, accumulate) in runs.items():
        losses, batches, weights = run(mask_prompt, accumulate)
        report[name] = {
            "mask_prompt": mask_prompt,
            "grad_accumulation_steps": accumulate,
            "train_loss": losses.train,
            "val_loss": losses.val,
            "trained_tokens": losses.tokens,
        }
        for i, (ids, spans) in enumerate(batches, start=1):
            tensors[f"{name}.batch.{i}"] = ids.astype(np.int32)
            tensors[f"{name}.spans.{i}"] = spans.astype(np.int32)
        tensors |= {f"{name}.final.{key}": value for key, value in weights.items()}
        print(name, losses.train, losses.val)
    about = {
        "batch_size": BATCH,
        "iters": ITERS,
        "learning_rate": LEARNING_RATE,
        "max_seq_length": MAX_TOKENS,
        "steps_per_eval": 4,
        "num_layers": len(LAYERS),
        "rank": RANK,
        "scale": SCALE,
    }
    save_json(FOLDER / "report.json", about | {"runs": report}, header)
    save_tensors(FOLDER / "run.safetensors", tensors, header)

    np.random.seed(SEED)
    permutations = [np.random.permutation(count).tolist() for count in PERMUTATIONS]
    save_json(FOLDER / "numpy_permutations.json", {"permutations": permutations}, header)


if __name__ == "__main__":
    main()
