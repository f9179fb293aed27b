"""A small Llama in PyTorch, its tokenizer, and the GGUF file of both."""

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional as F

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass
class Config:
    """The shape, in the names of Hugging Face's configuration."""

    vocab_size: int = 1024
    hidden_size: int = 128
    intermediate_size: int = 320
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 32
    max_position_embeddings: int = 512
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5


class RmsNorm(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.hidden_size))
        self.eps = config.rms_norm_eps

    def forward(self, x):  # [B, T, hidden]
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class Block(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        hidden, mlp, size = config.hidden_size, config.intermediate_size, config.head_dim
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.size = size
        self.attn_norm = RmsNorm(config)
        self.attn_q = nn.Linear(hidden, heads * size, bias=False)
        self.attn_k = nn.Linear(hidden, kv_heads * size, bias=False)
        self.attn_v = nn.Linear(hidden, kv_heads * size, bias=False)
        self.attn_output = nn.Linear(heads * size, hidden, bias=False)
        self.ffn_norm = RmsNorm(config)
        self.ffn_gate = nn.Linear(hidden, mlp, bias=False)
        self.ffn_up = nn.Linear(hidden, mlp, bias=False)
        self.ffn_down = nn.Linear(mlp, hidden, bias=False)

    def forward(self, x, cos, sin):  # [B, T, hidden]
        batch, length, _ = x.shape

        def heads(y):  # [B, heads, T, size]
            return y.view(batch, length, -1, self.size).transpose(1, 2)

        def rotated(y):
            # Pairs stand beside one another, as in GGUF files: no row has to be moved on writing.
            even, odd = y[..., 0::2], y[..., 1::2]
            return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)

        h = self.attn_norm(x)
        q, k, v = heads(self.attn_q(h)), heads(self.attn_k(h)), heads(self.attn_v(h))
        groups = q.shape[1] // k.shape[1]
        k, v = rotated(k).repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        h = F.scaled_dot_product_attention(rotated(q), k, v, is_causal=True)
        x = x + self.attn_output(h.transpose(1, 2).reshape(batch, length, -1))
        h = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))


class Llama(nn.Module):
    """Names are those of the GGUF tensors, with `_` for `.` where PyTorch wants it."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.token_embd = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blk = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.output_norm = RmsNorm(config)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                into_stream = name.endswith(("attn_output.weight", "ffn_down.weight"))
                shrink = (2 * config.num_hidden_layers) ** -0.5 if into_stream else 1.0
                nn.init.normal_(weight, std=0.05 * shrink)
        pairs = torch.arange(0, config.head_dim, 2) / config.head_dim
        angles = torch.outer(
            torch.arange(config.max_position_embeddings), config.rope_theta**-pairs
        )
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, ids):  # [B, T] to [B, T, vocab]
        x = self.token_embd(ids)
        length = ids.shape[1]
        for block in self.blk:
            x = block(x, self.cos[:length], self.sin[:length])
        return F.linear(self.output_norm(x), self.token_embd.weight)

    def round_as_stored(self) -> None:
        """Gives each matrix the values that its Q8_0 blocks have."""
        kind = gguf.GGMLQuantizationType.Q8_0
        with torch.no_grad():
            for weight in self.parameters():
                if weight.ndim == 2:
                    blocks = gguf.quants.quantize(weight.numpy(), kind)
                    weight.copy_(torch.from_numpy(gguf.quants.dequantize(blocks, kind)))


def train_tokenizer(texts: list[str], size: int) -> Tokenizer:
    """Byte-level BPE with single digits, what `tokenizer.ggml.pre = smollm` stands for."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    assert tokenizer.get_vocab_size() == size, "too little text for so many tokens"
    return tokenizer


def write_gguf(path: Path, model: Llama, tokenizer: Tokenizer, merges: list[str], about: dict):
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(about["name"])
    writer.add_description(about["description"])
    writer.add_license(about["licence"])
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    vocab = tokenizer.get_vocab()
    tokens = sorted(vocab, key=vocab.get)
    writer.add_token_list(tokens)
    kinds = [gguf.TokenType.CONTROL if t in SPECIAL else gguf.TokenType.NORMAL for t in tokens]
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(vocab["<|im_start|>"])
    writer.add_eos_token_id(vocab["<|im_end|>"])
    writer.add_pad_token_id(vocab["<|endoftext|>"])
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    for name, weight in model.state_dict().items():
        values = np.ascontiguousarray(weight.numpy())
        if values.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(values, q8_0), raw_dtype=q8_0)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
