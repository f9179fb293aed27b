"""The reference itself: a Llama of transformers with PEFT adapters, exact to float64."""

import numpy as np
import torch
from common import LINEARS, peft_key
from peft import LoraConfig, get_peft_model
from peft.utils import set_peft_model_state_dict
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm


def exact_rms_norm(self, hidden_states):
    """LlamaRMSNorm without its detour through f32, which would cap a float64 model at f32."""
    variance = hidden_states.pow(2).mean(-1, keepdim=True)
    return self.weight * (hidden_states * torch.rsqrt(variance + self.variance_epsilon))


LlamaRMSNorm.forward = exact_rms_norm


def load(folder, dtype: torch.dtype = torch.float64):
    """The folder's model, for evaluation."""
    # transformers' "eager" attention takes its softmax in f32.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    return model.eval()


def adapt(base, layers: range, rank: int, scale: float, values: dict[str, np.ndarray], **options):
    """`base` under a PEFT adapter on all seven linears of `layers`, in the base's dtype.

    `values` are in MLX's names and layout (lora_a [in, r], lora_b [r, out]). `options` are more of
    PEFT's settings; `scale` is alpha over rank whatever they are.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=scale * rank,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        target_modules=[linear.rsplit(".", 1)[1] for linear in LINEARS],
        layers_to_transform=list(layers),
        **options,
    )
    dtype = base.dtype
    model = get_peft_model(base, config)
    state = {peft_key(key): torch.from_numpy(value.T.copy()) for key, value in values.items()}
    result = set_peft_model_state_dict(model, state)
    if result.unexpected_keys:
        raise ValueError(f"PEFT does not know {result.unexpected_keys}")
    return model.to(dtype)


def trainable(model) -> dict[str, torch.nn.Parameter]:
    """The adapter's parameters under the keys of PEFT's file, sorted."""
    return {
        name.replace(".default.", "."): parameter
        for name, parameter in sorted(model.named_parameters())
        if parameter.requires_grad
    }


def masked_loss(model, ids: np.ndarray, mask: np.ndarray) -> torch.Tensor:
    """Mean cross-entropy over the targets kept: ids [B, T], mask [B, T-1], the batch as one."""
    tokens, keep = torch.from_numpy(ids).long(), torch.from_numpy(mask).bool()
    logits = model(input_ids=tokens[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits[keep], tokens[:, 1:][keep])
