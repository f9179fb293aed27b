"""What the peers are given: the data, the model's weights in f32, the prompt's tokens."""

from peers.installs import GOLDENS, base
from peers.process import run
from peers.settings import LORA


def epoch(args) -> None:
    """The first records of the held-out data, as many as are trained on."""
    data = args.out / "data"
    run(args, args.engram, "data", "--out", data, "--protocol", "held-out", "--force")
    records = (data / "train.jsonl").read_text().splitlines(keepends=True)
    folder = args.out / "epoch"
    folder.mkdir(exist_ok=True)
    taken = records[: LORA["batch_size"] * args.steps]
    (folder / "train.jsonl").write_text("".join(taken))


def weights(args) -> None:
    """The model as a Hugging Face folder in f32."""
    base(args)
    if not (args.weights / "source.json").exists():
        run(args, args.python, GOLDENS / "dequantize.py", args.gguf, args.weights)
