//! Generation on burn.

use engram::data::tokens::Encode as _;
use engram::generate::{Decoder, Likelihood};
use engram::text::Message;

use crate::common::*;
use crate::on_burn;

#[async_test]
async fn logits_are_those_of_transformers() {
    for name in ["tiny", "tiny_odd"] {
        let engine = on_burn(&open_folder(name).await).await;
        let golden = Golden::open(&format!("{name}_forward.safetensors"));
        let (ids, expected) = (golden.u32("input_ids"), golden.f32("logits"));
        let all = engine.logits_all(&ids, None).await.unwrap();
        assert_nmse(name, &all, &expected, 1e-10);
    }
}

/// Whole prompts, prompts that go on, single tokens and greedy runs leave the same behind, beyond
/// the first size of the cache too.
#[async_test]
async fn the_cache_holds_what_a_whole_pass_computes() {
    let engine = on_burn(&open_folder("tiny").await).await;
    let vocab = engine.config().vocab_size;
    let ids: Vec<u32> = (0..256).map(|i| (i * 37 + 5) % vocab as u32).collect();
    let all = engine.logits_all(&ids, None).await.unwrap();
    let last = |length: usize| &all[(length - 1) * vocab..length * vocab];
    let mut decoder = engine.decoder(None).unwrap();
    assert_eq!(decoder.prefill(&ids[..40]).unwrap(), 40);
    assert_nmse("a prompt", &decoder.logits().await.unwrap(), last(40), 1e-10);
    assert_eq!(decoder.prefill(&ids[..250]).unwrap(), 210);
    assert_nmse("its end", &decoder.logits().await.unwrap(), last(250), 1e-10);
    for &id in &ids[250..] {
        decoder.advance(id).unwrap();
    }
    assert_nmse("single tokens", &decoder.logits().await.unwrap(), last(256), 1e-10);
    assert!(decoder.advance(1).is_err(), "the context has 256 tokens");

    decoder.truncate(0);
    decoder.prefill(&ids[..9]).unwrap();
    let together = decoder.extend(7).await.unwrap();
    decoder.prefill(&ids[..9]).unwrap();
    let mut apart = Vec::new();
    for _ in 0..7 {
        apart.push(decoder.pick().await.unwrap());
        decoder.advance(apart[apart.len() - 1]).unwrap();
    }
    assert_eq!(together, apart);
}

#[async_test]
async fn likelihoods_are_those_of_the_logits() {
    let engine = on_burn(&open_folder("tiny").await).await;
    let vocab = engine.config().vocab_size;
    let ids: Vec<u32> = (0..70).map(|i| (i * 11 + 2) % vocab as u32).collect();
    let all = engine.logits_all(&ids, None).await.unwrap();
    let mut likelihood = Likelihood::new(engine.model(), None, 70).unwrap();
    let found = likelihood.nll(&ids, 3).await.unwrap();
    for (i, found) in (3..).zip(found) {
        let row = &all[(i - 1) * vocab..i * vocab];
        let sum: f64 = row.iter().map(|&l| f64::from(l).exp()).sum();
        let expected = sum.ln() - f64::from(row[ids[i] as usize]);
        assert!((found - expected).abs() < 1e-5, "token {i}: {found}, {expected} is right");
    }
}

/// Some of the continuations that the kernels are tested with, where no two tokens are near.
#[async_test]
async fn greedy_continuations_of_the_real_model_are_those_of_transformers() {
    let engine = on_burn(&file::open_real().await).await;
    let mut decoder: Decoder = engine.decoder(None).unwrap();
    let golden = golden_json("real_greedy.json");
    for case in golden["prompts"].as_array().expect("prompts").iter().step_by(7) {
        let prompt = case["prompt"].as_str().expect("prompt");
        let encoded = match case["kind"].as_str() {
            Some("chat") => engine.encode_chat(&[Message::new("user", prompt)]),
            _ => engine.text(prompt),
        };
        assert_eq!(encoded.unwrap(), ids(&case["prompt_ids"]));
        decoder.prefill(&ids(&case["prompt_ids"])).unwrap();
        let expected = ids(&case["new_ids"]);
        let found = decoder.extend(expected.len()).await.unwrap();
        assert_eq!(found, expected, "{prompt}");
    }
}
