"""Makes the goldens of LoRA on the embedding and on the head, by PEFT and by mlx-lm.

    python scripts/goldens/embedding.py

Needs the tiny models (`tiny.py`). The ranks of embedding, head and blocks differ (`rank_pattern`). Where
the head is the embedding, PEFT adapts it alone and mlx-lm, `embed_tokens` being all it has, both.
"""

import json
import shutil

import numpy as np
import torch
from common import GOLDENS, provenance, save_tensors, sha256, uniform
from oracle import load, trainable
from peft import LoraConfig, get_peft_model
from tiny import BOUND_B, FORWARD_TOKENS, SEED, f32, random_ids, write_json

RANKS = {"model.embed_tokens": 2, "lm_head": 5}
ALPHAS = {"lm_head": 4}


@torch.no_grad()
def peft_logits(name: str, copies: bool) -> np.ndarray:
    """Writes the adapter, with copies of the frozen matrices or not; logits over the forward's ids."""
    base = load(GOLDENS / name)
    # PEFT copies this path into adapter_config.json.
    base.name_or_path = base.config._name_or_path = f"data/goldens/{name}"
    config = LoraConfig(
        r=3,
        lora_alpha=6,
        target_modules=["embed_tokens", "lm_head", "q_proj", "down_proj"],
        rank_pattern=RANKS,
        alpha_pattern=ALPHAS,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config)
    for key, parameter in trainable(model).items():
        value = uniform(key, tuple(parameter.shape), BOUND_B)
        parameter.copy_(torch.from_numpy(value))
    ids = random_ids(SEED, FORWARD_TOKENS, base.config.vocab_size)
    logits = model(input_ids=torch.from_numpy(ids).long()[None]).logits[0]
    plain = load(GOLDENS / name)(input_ids=torch.from_numpy(ids).long()[None]).logits[0]
    print(f"{name}: logits {(logits - plain).norm() / plain.norm():.2f} from the base's")
    folder = GOLDENS / f"{name}_adapter_embedding"
    shutil.rmtree(folder, ignore_errors=True)
    model.float().save_pretrained(folder, save_embedding_layers=copies)
    (folder / "README.md").unlink()
    # PEFT writes a set in whatever order it comes.
    config = json.loads((folder / "adapter_config.json").read_text())
    targets = {"target_modules": sorted(config["target_modules"])}
    write_json(folder / "adapter_config.json", config | targets)
    return f32(logits)


def mlx_logits(name: str) -> np.ndarray:
    """The same of mlx-lm, in f32."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model, save_config

    keys = ["self_attn.q_proj", "model.embed_tokens"]
    parameters = {"rank": 3, "scale": 2.0, "dropout": 0.0, "keys": keys}
    model, config = load_model(GOLDENS / name)
    model.freeze()
    linear_to_lora_layers(model, 2, parameters)
    trained = tree_flatten(model.trainable_parameters())
    values = [(key, mx.array(uniform(key, value.shape, BOUND_B))) for key, value in trained]
    model.load_weights(values, strict=False)
    folder = GOLDENS / f"{name}_adapter_embedding_mlx"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), dict(values))
    about = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": parameters}
    save_config({"model": f"data/goldens/{name}"} | about, folder / "adapter_config.json")
    ids = random_ids(SEED, FORWARD_TOKENS, config["vocab_size"])
    return np.array(model(mx.array(ids)[None])[0].astype(mx.float32))


def main() -> None:
    torch.set_num_threads(1)
    tensors = {
        "tiny.logits": peft_logits("tiny", copies=True),
        "tiny_odd.logits": peft_logits("tiny_odd", copies=False),
        "tiny_mlx.logits": mlx_logits("tiny"),
    }
    digest = sha256(GOLDENS / "tiny" / "model.safetensors")
    packages = ("torch", "transformers", "peft", "mlx-lm", "numpy")
    header = provenance("data/goldens/tiny", digest, SEED, *packages)
    save_tensors(GOLDENS / "tiny_adapter_embedding.safetensors", tensors, header)


if __name__ == "__main__":
    main()
