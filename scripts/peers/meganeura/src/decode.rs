//! A prompt in one graph, then a token at a time in another with a cache.

use meganeura::data::safetensors::SafeTensorsModel;
use meganeura::models::smollm2::{SmolLM2Config, build_decode_graph, build_prefill_graph};
use meganeura::{Graph, build_inference_session};
use serde_json::{Value, json};

use crate::{Result, count, device, ids, step, weights};

pub fn run(model: &SafeTensorsModel, settings: &Value) -> Result<Value> {
    let config = SmolLM2Config::smollm2_135m();
    let prompt = ids(settings, "prompt_ids")?;
    let new_tokens = count(settings, "new_tokens")?;
    let length = prompt.len();
    let room = length + new_tokens;

    let mut graph = Graph::new();
    let (logits, keys, values) = build_prefill_graph(&mut graph, &config, length);
    graph.set_outputs([vec![logits], keys, values].concat());
    let mut prefill = build_inference_session(&graph);
    weights::load(&mut prefill, model, &config)?;
    let mut graph = Graph::new();
    let (logits, _, _) = build_decode_graph(&mut graph, &config, room);
    graph.set_outputs(vec![logits]);
    let mut decode = build_inference_session(&graph);
    weights::load(&mut decode, model, &config)?;

    prefill.set_input_u32("token_ids", &prompt);
    // The first run is the driver's too.
    step(&mut prefill);
    let prefill_ms = step(&mut prefill);
    let mut logits = vec![0.0; length * config.vocab_size];
    prefill.read_output_by_index(0, &mut logits);
    let mut new = vec![largest(&logits[(length - 1) * config.vocab_size..])];

    let blocks = config.num_hidden_layers;
    for (at, kind) in ["k", "v"].into_iter().enumerate() {
        for block in 0..blocks {
            let mut rows = vec![0.0; length * config.kv_dim()];
            prefill.read_output_by_index(1 + at * blocks + block, &mut rows);
            rows.resize(room * config.kv_dim(), 0.0);
            decode.set_parameter(&format!("kv_cache.layer.{block}.{kind}"), &rows);
        }
    }
    let mut token_ms = Vec::new();
    while new.len() < new_tokens {
        decode.set_input_u32("token_ids", &new[new.len() - 1..]);
        decode.set_input_u32("kv_pos", &[(length + new.len() - 1) as u32]);
        let began = std::time::Instant::now();
        step(&mut decode);
        new.push(largest(&decode.read_output(config.vocab_size)));
        token_ms.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(json!({
        "device": device(&decode),
        "prompt_tokens": length,
        "prefill": length as f64 / prefill_ms * 1e3,
        "decode": token_ms.len() as f64 / token_ms.iter().sum::<f64>() * 1e3,
        "new_ids": new,
    }))
}

fn largest(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0) as u32
}
