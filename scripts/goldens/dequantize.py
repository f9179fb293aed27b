"""Writes a Llama GGUF file as a Hugging Face folder with f32 weights.

    python scripts/goldens/dequantize.py MODEL.gguf OUTDIR [--check]

`--check` compares every tensor with the ones transformers' own GGUF reader makes.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
from common import sha256
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL = 3  # gguf.TokenType.CONTROL


def hf_name(name: str) -> str:
    """The checkpoint name of a GGUF tensor."""
    top = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    if name in top:
        return top[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{NAMES[part]}.{kind}"


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows from interleaved rotary pairs (GGUF) to half-split ones (Hugging Face)."""
    rows = weight.shape[0]
    pairs = weight.reshape(heads, rows // heads // 2, 2, *weight.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(weight.shape))


def read_weights(reader: gguf.GGUFReader, heads: int, kv_heads: int) -> dict[str, np.ndarray]:
    """Every tensor in f32 under its checkpoint name."""
    weights = {}
    for tensor in reader.tensors:
        value = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if ".attn_q." in tensor.name:
            value = unpermute(value, heads)
        elif ".attn_k." in tensor.name:
            value = unpermute(value, kv_heads)
        weights[hf_name(tensor.name)] = np.ascontiguousarray(value)
    return weights


def build_tokenizer(field) -> Tokenizer:
    """The byte-level BPE of a `gpt2` / `smollm` GGUF, splitting digits one by one."""
    if (field("tokenizer.ggml.model"), field("tokenizer.ggml.pre")) != ("gpt2", "smollm"):
        raise SystemExit("only tokenizers of model gpt2 with pre-tokenizer smollm are known here")
    tokens = field("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ", 1)) for merge in field("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = field("tokenizer.ggml.token_type")
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    return tokenizer


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def convert(source: Path, folder: Path) -> None:
    """Reads `source`, writes the folder."""
    reader = gguf.GGUFReader(source)

    def field(key):
        entry = reader.fields.get(key)
        return None if entry is None else entry.contents()

    if field("general.architecture") != "llama":
        raise SystemExit(f"{source}: architecture {field('general.architecture')}, not llama")
    heads, kv_heads = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
    weights = read_weights(reader, heads, kv_heads)
    bos, eos = field("tokenizer.ggml.bos_token_id"), field("tokenizer.ggml.eos_token_id")
    pad = field("tokenizer.ggml.padding_token_id")
    tokens = field("tokenizer.ggml.tokens")
    context = field("llama.context_length")
    eps = float(f"{field('llama.attention.layer_norm_rms_epsilon'):.6g}")

    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": field("llama.vocab_size"),
            "hidden_size": field("llama.embedding_length"),
            "intermediate_size": field("llama.feed_forward_length"),
            "num_hidden_layers": field("llama.block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": field("llama.rope.dimension_count"),
            "hidden_act": "silu",
            "max_position_embeddings": context,
            "rms_norm_eps": eps,
            "rope_theta": field("llama.rope.freq_base"),
            "rope_scaling": None,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "mlp_bias": False,
            "tie_word_embeddings": "lm_head.weight" not in weights,
            "bos_token_id": bos,
            "eos_token_id": eos,
            "pad_token_id": pad,
            "torch_dtype": "float32",
        },
    )
    ids = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}
    write_json(folder / "generation_config.json", {"_from_model_config": True, **ids})
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    build_tokenizer(field).save(str(folder / "tokenizer.json"))
    # With GPT2Tokenizer here transformers would drop the splitting of digits.
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": tokens[bos],
            "eos_token": tokens[eos],
            "pad_token": tokens[pad],
            "unk_token": tokens[field("tokenizer.ggml.unknown_token_id")],
            "model_max_length": context,
            "clean_up_tokenization_spaces": False,
            "chat_template": field("tokenizer.chat_template"),
        },
    )
    write_json(folder / "source.json", {"file": source.name, "sha256": sha256(source)})


def check(source: Path, folder: Path) -> None:
    """Every weight equal to the one that transformers reads from the same GGUF."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {"dtype": torch.float32}
    ours = AutoModelForCausalLM.from_pretrained(folder, **options).state_dict()
    theirs = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, **options
    ).state_dict()
    if ours.keys() != theirs.keys():
        raise SystemExit(f"tensor names differ: {ours.keys() ^ theirs.keys()}")
    worst = max((ours[name] - theirs[name]).abs().max().item() for name in ours)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pieces = tokenizer.tokenize("year 2024")
    print(f"{len(ours)} tensors, worst difference {worst:g}; 'year 2024' = {pieces}")
    if worst != 0.0 or pieces[-4:] != ["2", "0", "2", "4"]:
        raise SystemExit("the folder differs from transformers' reading of the GGUF")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("outdir", type=Path)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    convert(args.gguf, args.outdir)
    if args.check:
        check(args.gguf, args.outdir)


if __name__ == "__main__":
    main()
