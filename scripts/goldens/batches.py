"""Writes data/goldens/batches.json: what mlx_lm's own iterate_batches deals out.

Made with mlx-lm 0.32.2 and numpy 2.4.6; the seeds are in the cases. Run from the repository's
root: python scripts/goldens/batches.py

A case follows mlx_lm.tuner.trainer.train: the order comes from numpy's global generator, seeded
once, and every third iteration a validation draws from the same generator, as evaluate does. Of
each sequence the file keeps the steps up to the last one that counts in default_loss.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from mlx_lm.tuner.datasets import CacheDataset
from mlx_lm.tuner.trainer import iterate_batches


def examples(count, seed):
    """(ids, offset) pairs of uneven lengths; some prompts are masked."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        length = int(rng.integers(2, 45))
        offset = 0 if i % 2 else int(rng.integers(0, length))
        rows.append((rng.integers(1, 500, length).tolist(), offset))
    rows[0] = (rng.integers(1, 500, 32).tolist(), 0)  # a pad to the next multiple of 32, plus one
    rows[1] = (rng.integers(1, 500, 33).tolist(), 32)
    return rows


def rows(batch, lengths):
    """Inputs, targets and mask of each sequence, as default_loss makes them."""
    batch, lengths = np.array(batch), np.array(lengths)
    steps = np.arange(1, batch.shape[1])
    result = []
    for ids, (offset, length) in zip(batch, lengths):
        mask = (steps >= offset) & (steps <= length)
        # Steps after the sequence's last input see padding only: none of them may count.
        kept = min(int(length), len(steps))
        assert not mask[kept:].any()
        result.append(
            {
                "inputs": ids[:-1][:kept].tolist(),
                "targets": ids[1:][:kept].tolist(),
                "mask": mask[:kept].astype(int).tolist(),
            }
        )
    return result


class Records(list):
    """JSONL records of one key each, already tokenised: with them MLX-LM's sort is a no-op."""

    def process(self, record):
        return record["text"]


def run(train, valid, seed, batch_size, max_seq_length, val_batches, iterations):
    def dataset(pairs):
        return CacheDataset(Records({"text": pair} for pair in pairs))

    np.random.seed(seed)
    events = []
    batches = iterate_batches(dataset(train), batch_size, max_seq_length, loop=True)
    for iteration, batch in zip(range(1, iterations + 1), batches):
        # The training batch of an iteration is drawn before its validation.
        events.append({"train": rows(*batch)})
        if iteration == 1 or iteration % 3 == 0:
            count = iter(int, 1) if val_batches is None else range(val_batches)
            seen = zip(count, iterate_batches(dataset(valid), batch_size, max_seq_length))
            events.append({"valid": [rows(*b) for _, b in seen]})
    return {
        "seed": seed,
        "batch_size": batch_size,
        "max_seq_length": max_seq_length,
        "val_batches": val_batches,
        "events": events,
    }


def main():
    assert version("mlx-lm") == "0.32.2", version("mlx-lm")
    train, valid = examples(11, 1), examples(7, 2)
    cases = [
        run(train, valid, 0, 3, 2048, None, 10),
        run(train, valid, 42, 2, 33, 1, 16),
        run(train, valid, 4294967295, 4, 20, 25, 8),
    ]
    golden = {
        "train": [{"ids": ids, "offset": offset} for ids, offset in train],
        "valid": [{"ids": ids, "offset": offset} for ids, offset in valid],
        "cases": cases,
    }
    path = Path("data/goldens/batches.json")
    path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
