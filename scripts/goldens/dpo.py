"""Makes the golden of preference training: losses of TRL's DPOTrainer on the tiny model.

    python scripts/goldens/dpo.py

All pairs are one batch, so that their order does not matter. The adapter begins with a lora_b of 0: of
another one TRL takes the start as its reference, and not the model without it.
"""

import tempfile

import torch
from common import GOLDENS, hash_adapter, linear_dims, save_json
from datasets import Dataset
from oracle import adapt, load
from tiny import header
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer

STEPS = 10
BETA = 0.5
LEARNING_RATE = 5e-4
PAIRS = [
    ("What is the capital of France?", "The capital of France is Paris.", "The dog."),
    ("Add a and b", "return a + b", "print the item and the other text"),
    ("the cat sat", "on the mat", "on the house to the dog"),
    ("Error: cannot find value", "add an import statement", "for item in items"),
]


def main() -> None:
    torch.set_num_threads(1)
    base = load(GOLDENS / "tiny")
    values = hash_adapter(range(1, 3), linear_dims(base.config), 4, 0.0)
    model = adapt(base, range(1, 3), 4, 2.5, values)
    tokenizer = AutoTokenizer.from_pretrained(GOLDENS / "tiny")
    message = lambda role, content: [{"role": role, "content": content}]
    records = [
        {
            "prompt": message("user", prompt),
            "chosen": message("assistant", chosen),
            "rejected": message("assistant", rejected),
        }
        for prompt, chosen, rejected in PAIRS
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = DPOConfig(
            output_dir=folder,
            beta=BETA,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            per_device_train_batch_size=len(PAIRS),
            max_steps=STEPS,
            logging_steps=1,
            max_grad_norm=1e9,
            weight_decay=0.0,
            optim="adamw_torch",
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
        )
        trainer = DPOTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(records),
            processing_class=tokenizer,
        )
        trainer.train()
        history = [line for line in trainer.state.log_history if "loss" in line]
    keys = {"loss": "losses", "rewards/accuracies": "accuracies", "rewards/margins": "margins"}
    found = {name: [line[key] for line in history] for key, name in keys.items()}
    print("losses", found["losses"])
    value = {"beta": BETA, "learning_rate": LEARNING_RATE, "records": records} | found
    save_json(GOLDENS / "tiny_dpo.json", value, header("tiny"))


if __name__ == "__main__":
    main()
