"""Texts and token ids, for the peers that know ids alone."""

from tokenizers import Tokenizer

from peers.part import main


def encode(settings: dict) -> list[int]:
    return tokenizer(settings).encode(settings["prompt"]).ids


def decode(settings: dict) -> str:
    return tokenizer(settings).decode(settings["new_ids"])


def tokenizer(settings: dict) -> Tokenizer:
    return Tokenizer.from_file(f"{settings['weights']}/tokenizer.json")


if __name__ == "__main__":
    main(encode, decode)
