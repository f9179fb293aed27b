"""Writes the tiny Llama as GGUF files and the logits of their dequantised weights.

    python scripts/goldens/tiny_gguf.py

Run after tiny.py. The layout is that of the built-in model: linears in the named type, embedding
in Q8_0, norms in F32, q and k rows permuted to interleaved rotary pairs.
"""

import json
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
from common import GOLDENS, provenance, save_tensors, sha256
from dequantize import NAMES, convert
from oracle import load
from safetensors.numpy import load_file

TYPES = ("Q4_0", "Q4_1", "Q8_0")
TINY = GOLDENS / "tiny"


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows from half-split (Hugging Face) to interleaved rotary pairs (GGUF)."""
    rows = weight.shape[0]
    halves = weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def gguf_name(name: str) -> str:
    top = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
    }
    if name in top:
        return top[name]
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    back = {hf: short for short, hf in NAMES.items()}
    return f"blk.{layer}.{back[part]}.weight"


def write_metadata(writer: gguf.GGUFWriter, config: dict) -> None:
    writer.add_name("tiny")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def write_tokenizer(writer: gguf.GGUFWriter, config: dict) -> None:
    tokenizer = json.loads((TINY / "tokenizer.json").read_text())
    settings = json.loads((TINY / "tokenizer_config.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    special = {token["content"] for token in tokenizer["added_tokens"]}
    tokens = sorted(vocab, key=vocab.get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    kinds = [gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens]
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_unk_token_id(vocab[settings["unk_token"]])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template(settings["chat_template"])


def write_gguf(path: Path, kind: str) -> None:
    config = json.loads((TINY / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    write_metadata(writer, config)
    write_tokenizer(writer, config)
    for name, weight in load_file(TINY / "model.safetensors").items():
        if ".q_proj" in name:
            weight = permute(weight, config["num_attention_heads"])
        elif ".k_proj" in name:
            weight = permute(weight, config["num_key_value_heads"])
        if "norm" in name:
            writer.add_tensor(gguf_name(name), weight)
            continue
        stored = gguf.GGMLQuantizationType["Q8_0" if "embed_tokens" in name else kind]
        blocks = gguf.quants.quantize(weight, stored)
        writer.add_tensor(gguf_name(name), blocks, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    torch.set_num_threads(1)
    forward = load_file(GOLDENS / "tiny_forward.safetensors")
    ids, exact = forward["input_ids"], forward["logits"]
    tensors, digests = {"input_ids": ids}, {}
    for kind in TYPES:
        path = GOLDENS / f"tiny_{kind.lower()}.gguf"
        write_gguf(path, kind)
        digests[path.name] = sha256(path)
        with tempfile.TemporaryDirectory() as folder:
            convert(path, Path(folder))
            model = load(folder)
            with torch.no_grad():
                logits = model(input_ids=torch.from_numpy(ids).long()[None]).logits[0]
            vocabularies = [
                json.loads((Path(where) / "tokenizer.json").read_text())["model"]["vocab"]
                for where in (folder, TINY)
            ]
            assert vocabularies[0] == vocabularies[1]
        tensors[f"{kind.lower()}.logits"] = logits.float().numpy()
        apart = np.linalg.norm(tensors[f"{kind.lower()}.logits"] - exact) / np.linalg.norm(exact)
        print(f"{path.name}: {path.stat().st_size} bytes, {apart:.4f} from the f32 logits")
    packages = ("gguf", "torch", "transformers")
    weights = sha256(TINY / "model.safetensors")
    header = provenance("data/goldens/tiny", weights, None, *packages)
    save_tensors(GOLDENS / "tiny_gguf_forward.safetensors", tensors, header | {"files": digests})


if __name__ == "__main__":
    main()
