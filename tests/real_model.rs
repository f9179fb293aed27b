//! SmolLM2-135M-Instruct as it is shipped: logits and greedy continuations of transformers.

mod common;

use common::*;
use engram::data::tokens::Encode;
use engram::generate::Engine;
use engram::text::Message;
use pollster::block_on;

/// Two logits closer than this may change places in f32.
const TIE: f64 = 1e-3;

fn real_engine() -> Engine {
    engine(&context(), &open_gguf(&real_model_path()))
}

#[test]
fn logits_are_those_of_transformers() {
    let engine = real_engine();
    let golden = Golden::open("real_logits.safetensors");
    let ids = golden.u32("input_ids");
    let logits = gpu_logits(engine.context(), engine.model(), &ids);
    let vocab = engine.model().config.vocab_size;
    let rows: Vec<&[f32]> = logits.chunks_exact(vocab).collect();

    let sampled_ids = golden.u32("sampled_ids");
    let sampled: Vec<f32> = rows
        .iter()
        .zip(sampled_ids.chunks_exact(sampled_ids.len() / rows.len()))
        .flat_map(|(row, ids)| ids.iter().map(|&id| row[id as usize]))
        .collect();
    assert_nmse("sampled logits", &sampled, &golden.f32("sampled_logits"), 1e-6);

    let logsumexp: Vec<f32> = rows.iter().map(|row| log_sum_exp(row)).collect();
    assert_close("log-sum-exp", &logsumexp, &golden.f32("logsumexp"), 1e-3);

    let (best, margins) = (golden.u32("argmax"), golden.f32("margin"));
    for (t, row) in rows.iter().enumerate() {
        let found = argmax(row);
        assert!(found == best[t] || f64::from(margins[t]) < TIE, "position {t}: {found}");
    }

    // In one chunk through the cache.
    let mut decoder = engine.decoder(None).unwrap();
    decoder.prefill(&ids).unwrap();
    let last = block_on(decoder.logits()).unwrap();
    assert_close("the last of the prompt", &last, rows[rows.len() - 1], 1e-3);
}

fn log_sum_exp(row: &[f32]) -> f32 {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|&l| f64::from(l - most).exp()).sum();
    (f64::from(most) + sum.ln()) as f32
}

#[test]
fn greedy_continuations_are_those_of_transformers() {
    let engine = real_engine();
    let mut decoder = engine.decoder(None).unwrap();
    let golden = golden_json("real_greedy.json");
    let cases = golden["prompts"].as_array().expect("prompts");
    assert_eq!(cases.len(), 20);
    let mut ties = 0;
    for case in cases {
        let prompt = case["prompt"].as_str().expect("prompt");
        let encoded = match case["kind"].as_str() {
            Some("chat") => engine.encode_chat(&[Message::new("user", prompt)]),
            _ => engine.text(prompt),
        };
        assert_eq!(encoded.unwrap(), ids(&case["prompt_ids"]), "{prompt:?}");

        let new_ids = ids(&case["new_ids"]);
        let margins: Vec<f64> = serde_json::from_value(case["margins"].clone()).unwrap();
        let mut context = ids(&case["prompt_ids"]);
        let mut left = &new_ids[..];
        while !left.is_empty() {
            decoder.prefill(&context).unwrap();
            let picks = block_on(decoder.advance_greedy(left.len())).unwrap();
            let Some(split) = (0..left.len()).find(|&i| picks[i] != left[i]) else { break };
            // After a tie, on with what the golden took.
            let step = new_ids.len() - left.len() + split;
            let margin = margins[step];
            assert!(margin < TIE, "{prompt:?}, step {step}: {}, margin {margin}", picks[split]);
            ties += 1;
            context.extend(&left[..=split]);
            left = &left[split + 1..];
        }
    }
    eprintln!("{ties} of {} steps went the other way in a tie", 32 * cases.len());
}
