//! SmolLM2-135M-Instruct as it is shipped: the ids, logits and greedy continuations of transformers,
//! and the gradients of PyTorch.

use crate::common::*;
use crate::lora_grads::{Case, assert_loss};
use crate::tokenizer::{template, tokenizer};
use engram::data::tokens::Encode;
use engram::generate::{Decoder, Engine, GpuModel};
use engram::kernels::kv::KvType;
use engram::model::{AnyAdapter, GpuAdapter};
use engram::text::Message;
use engram::train::StepOptions;

/// Two logits closer than this may change places in f32.
const TIE: f64 = 1e-3;

async fn real_engine() -> Engine {
    engine(&context().await, &file::open_real().await).await
}

#[async_test]
async fn logits_are_those_of_transformers() {
    let engine = real_engine().await;
    let golden = Golden::open("real_logits.safetensors");
    let ids = golden.u32("input_ids");
    let GpuModel { context, llama } = engine.model().gpu().unwrap();
    let logits = gpu_logits(context, llama, &ids).await;
    let vocab = engine.config().vocab_size;
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
    let of_last = async |kv| {
        let mut decoder = Decoder::with_cache(engine.model(), None, kv).unwrap();
        decoder.prefill(&ids).unwrap();
        decoder.logits().await.unwrap()
    };
    let (last, half) = (of_last(KvType::F32).await, of_last(KvType::F16).await);
    assert_close("the last of the prompt", &last, rows[rows.len() - 1], 1e-3);
    assert_nmse("with a cache of half the size", &half, &last, 1e-6);
}

fn log_sum_exp(row: &[f32]) -> f32 {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|&l| f64::from(l - most).exp()).sum();
    (f64::from(most) + sum.ln()) as f32
}

#[async_test]
async fn greedy_continuations_are_those_of_transformers() {
    let engine = real_engine().await;
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
            let picks = decoder.extend(left.len()).await.unwrap();
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

#[async_test]
async fn a_decoded_token_takes_few_dispatches_and_makes_nothing_on_the_device() {
    let engine = real_engine().await;
    let GpuModel { context, llama } = engine.model().gpu().unwrap();
    let tensors = hash_adapter(&llama.config, 14..30, 8, 20.0, 0.01);
    let adapter = engine.load_adapter("hash", &AnyAdapter::Lora(tensors)).unwrap();
    for (adapter, most) in [(None, 160), (Some(&adapter), 200)] {
        let mut decoder = engine.decoder(adapter).unwrap();
        let dispatches = decoder.dispatches_per_token().unwrap();
        assert!(dispatches <= most, "{dispatches} dispatches, at most {most} are right");
        decoder.prefill(&[1, 2, 3]).unwrap();
        decoder.pick().await.unwrap();
        let made = || (context.memory().allocations(), context.bind_groups());
        let (before, submits) = (made(), context.submits());
        decoder.extend(8).await.unwrap();
        assert_eq!(context.submits(), submits + 2, "one for eight tokens, one to read them");
        decoder.advance(4).unwrap();
        assert_eq!(made(), before);
        eprintln!("{dispatches} dispatches a token");
    }
}

#[async_test]
async fn decoding_with_an_adapter_is_the_full_forward() {
    let engine = real_engine().await;
    let tensors = hash_adapter(engine.config(), 14..30, 8, 20.0, 0.01);
    let adapter = engine.load_adapter("hash", &AnyAdapter::Lora(tensors)).unwrap();
    let ids = Golden::open("real_logits.safetensors").u32("input_ids");
    let ids = &ids[..12];
    let vocab = engine.config().vocab_size;
    let full = engine.logits_all(ids, Some(&adapter)).await.unwrap();
    let mut decoder = Decoder::with_cache(engine.model(), Some(&adapter), KvType::F32).unwrap();
    decoder.prefill(&ids[..4]).unwrap();
    for (t, &id) in ids.iter().enumerate().skip(4) {
        decoder.advance(id).unwrap();
        let expected = &full[t * vocab..][..vocab];
        assert_close(&format!("token {t}"), &decoder.logits().await.unwrap(), expected, 1e-3);
    }
}

#[async_test]
async fn ids_of_the_real_vocabulary_are_hugging_faces() {
    let tokenizer = tokenizer(&file::open_real().await);
    let golden = golden_json("tokenizer_ids.json");
    let cases = golden["cases"].as_array().expect("cases");
    assert!(cases.len() > 50);
    for case in cases {
        let text = case["text"].as_str().expect("text");
        let ids = ids(&case["ids"]);
        assert_eq!(tokenizer.encode(text, false).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), case["decoded"], "{text:?}");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }
}

#[async_test]
async fn prompts_of_the_real_model_are_hugging_faces() {
    let checkpoint = file::open_real().await;
    let (tokenizer, template) = (tokenizer(&checkpoint), template(&checkpoint));
    let golden = golden_json("real_greedy.json");
    let mut kinds = [0, 0];
    for case in golden["prompts"].as_array().expect("prompts") {
        let prompt = case["prompt"].as_str().expect("prompt");
        let is_chat = case["kind"] == "chat";
        kinds[usize::from(is_chat)] += 1;
        let found = if is_chat {
            let text = template.render(&[Message::new("user", prompt)], true).unwrap();
            tokenizer.encode(&text, false).unwrap()
        } else {
            tokenizer.encode(prompt, true).unwrap()
        };
        assert_eq!(found, ids(&case["prompt_ids"]), "{prompt:?}");
        let decoded = tokenizer.decode(&ids(&case["new_ids"]), false).unwrap();
        assert_eq!(decoded, case["text"], "{prompt:?}");
    }
    assert!(kinds.iter().all(|&count| count > 0));
}

#[async_test]
async fn gradients_of_the_real_model_are_those_of_pytorch() {
    let context = context().await;
    let model = load(&context, &file::open_real().await, None).await;
    let golden = Golden::open("real_lora_grads.safetensors");
    let adapter = hash_adapter(&model.config, 14..30, 8, 20.0, 0.01);
    let adapter = GpuAdapter::upload(&context, &adapter).unwrap();
    let case = Case::new(&context, &model, &golden);
    let expected_loss = golden.f64("loss");
    let (loss, gradients) = case.step(&adapter, StepOptions::default(), 1).await;
    assert_loss("with the adapter", loss, expected_loss[0]);
    assert_loss("without", case.loss_alone(None).await, expected_loss[1]);

    let about: serde_json::Value = serde_json::from_str(&golden.metadata["provenance"]).unwrap();
    let names: Vec<String> = serde_json::from_value(about["tensors"].clone()).unwrap();
    let (norms, samples) = (golden.f32("grad_norms"), golden.f32("grad_samples"));
    let mut lowest = 1f64;
    let mut rows = names.iter().zip(&norms).zip(samples.chunks_exact(128));
    for (layer, target, lora) in gradients.iter() {
        for (half, values) in [("lora_a", &lora.a), ("lora_b", &lora.b)] {
            let name = mlx_name(layer, target, half);
            let ((_, &norm), expected) =
                rows.clone().find(|((n, _), _)| **n == name).expect("a golden gradient");
            let length = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            let off = (length / f64::from(norm) - 1.0).abs();
            // f32 through 16 blocks against f64: up to 1.1e-4 was seen on llvmpipe.
            assert!(off <= 1e-3, "{name}: norm {length}, {norm} is right");
            let bits = hash_bits(&format!("{name}.sampled"));
            let sampled: Vec<f32> = bits
                .take(expected.len())
                .map(|bits| values[(bits % values.len() as u64) as usize])
                .collect();
            let cosine = cosine(&sampled, expected);
            assert!(cosine >= 0.9999, "{name}: the cosine of sampled gradients is {cosine}");
            lowest = lowest.min(cosine);
        }
    }
    assert_eq!(rows.by_ref().count(), 2 * gradients.iter().count());
    eprintln!("lowest cosine of a gradient tensor: {lowest}");
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
