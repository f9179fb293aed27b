"""What every peer computes."""

# A training step of the original experiment.
LORA = {
    "batch_size": 4,
    "rank": 8,
    "scale": 20.0,
    "num_layers": 16,
    "learning_rate": 1e-5,
    "seed": 0,
}
PROMPT = (
    "The history of computing is longer than that of electronic machines. In the nineteenth"
    " century, Charles Babbage designed the Analytical Engine, which was to be driven by steam and"
    " programmed with punched cards, as the looms of his time were. Ada Lovelace wrote notes on it"
    " that explain how it could compute numbers, and she saw that it might one day work on music"
    " and on other things than numbers. The machine was never finished. A hundred years later,"
    " engineers in several countries began to build"
)
NEW_TOKENS = 64
# The inferena protocol: tokens in the order of their ids, each but the last followed by the next.
INPUTS = list(range(128))
TARGETS = INPUTS[1:]
REPEATS = 3


def settings(args) -> dict:
    """All of it, and where its files are, as the parts that run in other processes take it."""
    return {
        "gguf": str(args.gguf),
        "weights": str(args.weights),
        "epoch": str(args.out / "epoch" / "train.jsonl"),
        "web": str(args.out / "web"),
        "package": str(args.package),
        "prompt": PROMPT,
        "new_tokens": NEW_TOKENS,
        "lora": LORA | {"iters": args.steps},
        "inputs": INPUTS,
        "targets": TARGETS,
        "repeats": REPEATS,
        "threads": args.threads,
    }
