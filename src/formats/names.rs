//! Names and shapes of a checkpoint's tensors, in Hugging Face's words.

use crate::model::ModelConfig;

/// GGUF's names of a block's parts and Hugging Face's.
const PARTS: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Hugging Face's name of GGUF's tensor `name`; a name without one stays as it is.
pub(crate) fn from_gguf(name: &str) -> String {
    let known = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight".into()),
        "output_norm.weight" => Some("model.norm.weight".into()),
        "output.weight" => Some("lm_head.weight".into()),
        _ => block_part(name),
    };
    known.unwrap_or_else(|| name.into())
}

/// `blk.N.part.weight` and `blk.N.part.bias`.
fn block_part(name: &str) -> Option<String> {
    let (block, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let (_, part) = PARTS.iter().find(|(gguf, _)| *gguf == part)?;
    let plain = block.bytes().all(|byte| byte.is_ascii_digit());
    (plain && matches!(kind, "weight" | "bias"))
        .then(|| format!("model.layers.{block}.{part}.{kind}"))
}

/// GGUF's name of Hugging Face's tensor `name`; a name without one stays as it is.
pub(crate) fn to_gguf(name: &str) -> String {
    let known = match name {
        "model.embed_tokens.weight" => Some("token_embd.weight".into()),
        "model.norm.weight" => Some("output_norm.weight".into()),
        "lm_head.weight" => Some("output.weight".into()),
        _ => layer_part(name),
    };
    known.unwrap_or_else(|| name.into())
}

/// `model.layers.N.part.weight` and `model.layers.N.part.bias`.
fn layer_part(name: &str) -> Option<String> {
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let (part, _) = PARTS.iter().find(|(_, hugging_face)| *hugging_face == part)?;
    Some(format!("blk.{layer}.{part}.{kind}"))
}

/// Every tensor that a checkpoint of `config` must have, with its shape.
pub(crate) fn promised(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let hidden = config.hidden_size;
    let query = config.num_attention_heads * config.head_dim;
    let key = config.num_key_value_heads * config.head_dim;
    let mlp = config.intermediate_size;
    let mut tensors = vec![
        ("model.embed_tokens.weight".into(), vec![config.vocab_size, hidden]),
        ("model.norm.weight".into(), vec![hidden]),
    ];
    if !config.tie_word_embeddings {
        tensors.push(("lm_head.weight".into(), vec![config.vocab_size, hidden]));
    }
    for layer in 0..config.num_hidden_layers {
        let mut push =
            |part: &str, shape| tensors.push((format!("model.layers.{layer}.{part}"), shape));
        push("input_layernorm.weight", vec![hidden]);
        push("post_attention_layernorm.weight", vec![hidden]);
        for (part, rows, columns) in
            [("q", query, hidden), ("k", key, hidden), ("v", key, hidden), ("o", hidden, query)]
        {
            push(&format!("self_attn.{part}_proj.weight"), vec![rows, columns]);
            if config.attention_bias {
                push(&format!("self_attn.{part}_proj.bias"), vec![rows]);
            }
        }
        push("mlp.gate_proj.weight", vec![mlp, hidden]);
        push("mlp.up_proj.weight", vec![mlp, hidden]);
        push("mlp.down_proj.weight", vec![hidden, mlp]);
    }
    tensors
}

/// Whether GGUF stores the rows of this tensor (Hugging Face's name) with rotary pairs
/// interleaved.
pub(crate) fn has_rotary_rows(name: &str) -> bool {
    [".q_proj.", ".k_proj."].iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn gguf_names_become_hugging_faces() {
        for (gguf, hugging_face) in [
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("blk.12.attn_output.weight", "model.layers.12.self_attn.o_proj.weight"),
            ("blk.0.attn_q.bias", "model.layers.0.self_attn.q_proj.bias"),
            ("blk.3.ffn_norm.weight", "model.layers.3.post_attention_layernorm.weight"),
            ("rope_freqs.weight", "rope_freqs.weight"),
            ("blk.x.attn_q.weight", "blk.x.attn_q.weight"),
            ("blk.0.attn_qkv.weight", "blk.0.attn_qkv.weight"),
        ] {
            assert_eq!(from_gguf(gguf), hugging_face);
            assert_eq!(to_gguf(hugging_face), gguf);
        }
    }
}
