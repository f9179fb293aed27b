//! A tiny model written in both formats, for tests.

use ::safetensors::tensor::{Dtype, TensorView, serialize};

use super::{Bytes, SafetensorsFolder};

/// A GGUF file under construction.
#[derive(Clone)]
pub(crate) struct GgufFile {
    /// Keys, and values with their type number before them.
    pub(crate) pairs: Vec<(String, Vec<u8>)>,
    pub(crate) tensors: Vec<GgufPart>,
}

/// A tensor as GGUF describes it.
#[derive(Clone)]
pub(crate) struct GgufPart {
    pub(crate) name: String,
    /// The contiguous axis first.
    pub(crate) dims: Vec<u64>,
    /// `enum ggml_type`.
    pub(crate) kind: u32,
    /// Relative to the data; `None` places it behind the one before.
    pub(crate) offset: Option<u64>,
    pub(crate) data: Vec<u8>,
}

impl GgufFile {
    pub(crate) fn tensor(&mut self, name: &str) -> &mut GgufPart {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).expect(name)
    }

    /// Adds an F32 tensor; `shape` has the contiguous axis last.
    pub(crate) fn push(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        self.tensors.push(GgufPart {
            name: name.into(),
            dims: shape.iter().rev().map(|&size| size as u64).collect(),
            kind: 0,
            offset: None,
            data: bytemuck::cast_slice(values).to_vec(),
        });
    }

    pub(crate) fn set(&mut self, key: &str, kind: u32, value: Vec<u8>) {
        self.pairs.retain(|(other, _)| other != key);
        self.pairs.push((key.into(), [kind.to_le_bytes().to_vec(), value].concat()));
    }

    pub(crate) fn set_u32(&mut self, key: &str, value: u32) {
        self.set(key, 4, value.to_le_bytes().to_vec());
    }

    pub(crate) fn set_string(&mut self, key: &str, value: &str) {
        self.set(key, 8, string(value));
    }

    pub(crate) fn set_strings(&mut self, key: &str, values: &[String]) {
        let items = values.iter().flat_map(|value| string(value)).collect();
        self.set(key, 9, [array_head(8, values.len()), items].concat());
    }

    /// The file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3_u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            out.extend(string(key));
            out.extend(value);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            data.resize(data.len().next_multiple_of(32), 0);
            out.extend(string(&tensor.name));
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            out.extend(tensor.dims.iter().flat_map(|size| size.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.data);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }
}

/// An array's type and length.
pub(crate) fn array_head(kind: u32, length: usize) -> Vec<u8> {
    [kind.to_le_bytes().to_vec(), (length as u64).to_le_bytes().to_vec()].concat()
}

fn string(text: &str) -> Vec<u8> {
    [(text.len() as u64).to_le_bytes().to_vec(), text.as_bytes().to_vec()].concat()
}

/// Two blocks, 4 heads of 16 over 2 key heads, hidden 64, MLP 96, 40 tokens.
#[derive(Clone, Copy)]
pub(crate) struct TinyLlama {
    pub(crate) bias: bool,
    pub(crate) tied: bool,
}

impl Default for TinyLlama {
    fn default() -> Self {
        Self { bias: false, tied: true }
    }
}

impl TinyLlama {
    /// GGUF's name, Hugging Face's, and the shape of every tensor.
    pub(crate) fn tensors(self) -> Vec<(String, String, Vec<usize>)> {
        let mut all = vec![
            ("token_embd.weight".into(), "model.embed_tokens.weight".into(), vec![40, 64]),
            ("output_norm.weight".into(), "model.norm.weight".into(), vec![64]),
        ];
        if !self.tied {
            all.push(("output.weight".into(), "lm_head.weight".into(), vec![40, 64]));
        }
        for n in 0..2 {
            let mut push = |gguf: &str, name: &str, shape: &[usize]| {
                let names = (format!("blk.{n}.{gguf}"), format!("model.layers.{n}.{name}"));
                all.push((names.0, names.1, shape.to_vec()));
            };
            push("attn_norm.weight", "input_layernorm.weight", &[64]);
            push("ffn_norm.weight", "post_attention_layernorm.weight", &[64]);
            push("ffn_gate.weight", "mlp.gate_proj.weight", &[96, 64]);
            push("ffn_up.weight", "mlp.up_proj.weight", &[96, 64]);
            push("ffn_down.weight", "mlp.down_proj.weight", &[64, 96]);
            for (gguf, name, rows) in
                [("q", "q", 64), ("k", "k", 32), ("v", "v", 32), ("output", "o", 64)]
            {
                let (gguf, name) = (format!("attn_{gguf}"), format!("self_attn.{name}_proj"));
                push(&format!("{gguf}.weight"), &format!("{name}.weight"), &[rows, 64]);
                if self.bias {
                    push(&format!("{gguf}.bias"), &format!("{name}.bias"), &[rows]);
                }
            }
        }
        all
    }

    /// Values that differ everywhere, in Hugging Face's order.
    pub(crate) fn values(name: &str, count: usize) -> Vec<f32> {
        let seed = name.bytes().fold(7_u32, |seed, byte| seed.wrapping_mul(31) + u32::from(byte));
        (0..count as u32).map(|i| ((seed % 1000) as f32 + i as f32) / 8192.0).collect()
    }

    pub(crate) fn gguf(self) -> GgufFile {
        let mut file = GgufFile { pairs: Vec::new(), tensors: Vec::new() };
        file.set_string("general.architecture", "llama");
        for (key, value) in [
            ("llama.block_count", 2),
            ("llama.context_length", 128),
            ("llama.embedding_length", 64),
            ("llama.feed_forward_length", 96),
            ("llama.attention.head_count", 4),
            ("llama.attention.head_count_kv", 2),
            ("llama.rope.dimension_count", 16),
            ("llama.vocab_size", 40),
            ("tokenizer.ggml.bos_token_id", 1),
            ("tokenizer.ggml.eos_token_id", 2),
        ] {
            file.set_u32(key, value);
        }
        file.set("llama.rope.freq_base", 6, 1e5_f32.to_le_bytes().to_vec());
        file.set("llama.attention.layer_norm_rms_epsilon", 6, 1e-5_f32.to_le_bytes().to_vec());
        file.set("tokenizer.ggml.add_bos_token", 7, vec![0]);
        file.set_string("tokenizer.ggml.model", "gpt2");
        file.set_string("tokenizer.ggml.pre", "smollm");
        file.set_string("tokenizer.chat_template", "{{ messages }}");
        file.set_strings(
            "tokenizer.ggml.tokens",
            &(0..40).map(|i| format!("t{i}")).collect::<Vec<_>>(),
        );
        file.set_strings("tokenizer.ggml.merges", &["t0 t1".into()]);
        let types = [array_head(5, 40), 1_i32.to_le_bytes().repeat(40)].concat();
        file.set("tokenizer.ggml.token_type", 9, types);
        for (gguf, name, shape) in self.tensors() {
            let mut values = Self::values(&name, shape.iter().product());
            if gguf.contains("attn_q") || gguf.contains("attn_k") {
                values = interleave(&values, values.len() / shape[0]);
            }
            file.push(&gguf, &shape, &values);
        }
        file
    }

    /// The weights, those of `part` of `parts`, as safetensors.
    pub(crate) fn safetensors(self, part: usize, parts: usize) -> Vec<u8> {
        let tensors = self.tensors();
        let named = tensors.iter().enumerate().filter(|(i, _)| i % parts == part);
        let data: Vec<_> = named
            .map(|(_, (_, name, shape))| {
                let values = Self::values(name, shape.iter().product());
                (name, shape, bytemuck::cast_slice(&values).to_vec())
            })
            .collect();
        let views = data.iter().map(|(name, shape, bytes): &(_, _, Vec<u8>)| {
            let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes).expect("a tensor");
            (name.as_str(), view)
        });
        serialize(views, None).expect("safetensors")
    }

    pub(crate) fn folder(self) -> SafetensorsFolder {
        let config = serde_json::json!({
            "model_type": "llama", "vocab_size": 40, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 1e5,
            "tie_word_embeddings": self.tied, "attention_bias": self.bias,
            "bos_token_id": 1, "eos_token_id": 2,
        });
        let tokenizer_config = serde_json::json!({
            "bos_token": "t1", "eos_token": {"content": "t2"},
            "chat_template": [
                {"name": "tool_use", "template": ""},
                {"name": "default", "template": "{{ messages }}"},
            ],
        });
        let weights = Bytes::new("tiny/model.safetensors", self.safetensors(0, 1));
        SafetensorsFolder {
            name: "tiny".into(),
            weights: vec![("model.safetensors".into(), Box::new(weights))],
            index_json: None,
            config_json: config.to_string().into_bytes(),
            generation_config_json: None,
            tokenizer_json: b"{}".to_vec(),
            tokenizer_config_json: Some(tokenizer_config.to_string().into_bytes()),
            chat_template_jinja: None,
        }
    }
}

/// What llama.cpp's converter does to the rows of heads of 16: `[2, 8]` becomes `[8, 2]`.
fn interleave(values: &[f32], row: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for head in values.chunks_exact(16 * row) {
        let (first, second) = head.split_at(8 * row);
        for (a, b) in first.chunks_exact(row).zip(second.chunks_exact(row)) {
            out.extend(a);
            out.extend(b);
        }
    }
    out
}
