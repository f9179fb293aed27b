//! The decoder on tiny random models: its logits are those of transformers, on the GPU and by the
//! CPU reference, however they are stored, and however the tokens are fed.

use std::rc::Rc;

use crate::common::*;
use engram::Error;
use engram::formats::Checkpoint;
use engram::generate::{Decoder, Sampling};
use engram::gpu::Context;
use engram::kernels::kv::KvType;
use engram::model::{GpuLlama, Quantize};
use engram::ops::Rows;

/// f32 sums against float64 ones.
const EXACT: f64 = 1e-10;
/// The largest difference of two ways to the same logits, which are of size 1.
const SAME: f32 = 1e-4;

/// Tokens of golden input and what transformers makes of them.
fn golden(file: &str, logits: &str) -> (Vec<u32>, Vec<f32>) {
    let golden = Golden::open(file);
    (golden.u32("input_ids"), golden.f32(logits))
}

async fn gguf(kind: &str) -> Checkpoint {
    open_gguf(&format!("tiny_{kind}.gguf")).await
}

/// Any tokens of a vocabulary.
fn noise(count: usize, vocab: usize) -> Vec<u32> {
    let mut state = 1u32;
    let next = || {
        // The LCG of Numerical Recipes.
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 8) % vocab as u32
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn decoder(context: &Context, model: &Rc<GpuLlama>) -> Decoder {
    Decoder::with_cache(&on_gpu(context, model), None, KvType::F32).unwrap()
}

async fn logits(decoder: &Decoder) -> Vec<f32> {
    decoder.logits().await.unwrap()
}

/// The logits after `ids` by a decoder of its own.
async fn fresh(context: &Context, model: &Rc<GpuLlama>, ids: &[u32]) -> Vec<f32> {
    let mut decoder = decoder(context, model);
    decoder.prefill(ids).unwrap();
    logits(&decoder).await
}

#[async_test]
async fn logits_are_those_of_transformers() {
    let context = context().await;
    for (folder, quantize) in [("tiny", None), ("tiny_odd", Some(Quantize::F32))] {
        let (ids, expected) = golden(&format!("{folder}_forward.safetensors"), "logits");
        let checkpoint = open_folder(folder).await;
        let cpu = reference_logits(&reference(&checkpoint).await, &ids);
        assert_nmse(&format!("{folder}, reference"), &cpu, &expected, EXACT);
        let model = load(&context, &checkpoint, quantize).await;
        let gpu = gpu_logits(&context, &model, &ids).await;
        assert_nmse(&format!("{folder}, GPU"), &gpu, &expected, EXACT);
    }
}

#[async_test]
async fn logits_of_quantised_files_are_those_of_their_dequantised_weights() {
    let context = context().await;
    for kind in ["q4_0", "q4_1", "q8_0"] {
        let logits = format!("{kind}.logits");
        let (ids, expected) = golden("tiny_gguf_forward.safetensors", &logits);
        let checkpoint = gguf(kind).await;
        let cpu = reference_logits(&reference(&checkpoint).await, &ids);
        assert_nmse(&format!("{kind}, reference"), &cpu, &expected, EXACT);
        let gpu = gpu_logits(&context, &load(&context, &checkpoint, None).await, &ids).await;
        assert_nmse(&format!("{kind}, GPU"), &gpu, &expected, EXACT);
    }
}

#[async_test]
async fn gguf_and_a_folder_quantised_at_load_give_the_same_bits() {
    let context = context().await;
    let ids = Golden::open("tiny_forward.safetensors").u32("input_ids");
    for (kind, quantize) in [("q4_0", Quantize::Q4_0), ("q8_0", Quantize::Q8_0)] {
        let from_gguf =
            gpu_logits(&context, &load(&context, &gguf(kind).await, None).await, &ids).await;
        let folder = load(&context, &open_folder("tiny").await, Some(quantize)).await;
        assert_eq!(from_gguf, gpu_logits(&context, &folder, &ids).await, "{kind}");
    }
}

#[async_test]
async fn f16_at_load_rounds_the_matrices_and_nothing_else() {
    let context = context().await;
    let ids = Golden::open("tiny_forward.safetensors").u32("input_ids");
    let checkpoint = open_folder("tiny").await;
    let gpu =
        gpu_logits(&context, &load(&context, &checkpoint, Some(Quantize::F16)).await, &ids).await;
    let mut rounded = reference(&checkpoint).await;
    let round = |matrix: &mut Rows| {
        matrix.values.iter_mut().for_each(|v| *v = half::f16::from_f32(*v).to_f32());
    };
    round(&mut rounded.embed_tokens);
    for block in &mut rounded.layers {
        for linear in [
            &mut block.q_proj,
            &mut block.k_proj,
            &mut block.v_proj,
            &mut block.o_proj,
            &mut block.gate_proj,
            &mut block.up_proj,
            &mut block.down_proj,
        ] {
            round(&mut linear.weight);
        }
    }
    assert_nmse("f16", &gpu, &reference_logits(&rounded, &ids), EXACT);
}

#[async_test]
async fn quantising_at_load_costs_what_the_format_costs() {
    let context = context().await;
    for folder in ["tiny", "tiny_odd"] {
        let (ids, expected) = golden(&format!("{folder}_forward.safetensors"), "logits");
        let checkpoint = open_folder(folder).await;
        // A least error shows that something was quantised.
        for (quantize, least, most) in [
            (Some(Quantize::F32), 0.0, EXACT),
            // BF16 of ordinary size is exact in F16.
            (None, 0.0, EXACT),
            (Some(Quantize::F16), 0.0, 1e-5),
            (Some(Quantize::Q8_0), 1e-5, 5e-3),
            (Some(Quantize::Q4_0), 1e-2, 0.3),
        ] {
            let model = load(&context, &checkpoint, quantize).await;
            let error = nmse(&gpu_logits(&context, &model, &ids).await, &expected);
            assert!((least..=most).contains(&error), "{folder}, {quantize:?}: NMSE {error:e}");
        }
    }
}

#[async_test]
async fn a_small_device_gives_the_same_bits() {
    let (ids, expected) = golden("tiny_forward.safetensors", "logits");
    let checkpoint = open_folder("tiny").await;
    let large = context().await;
    let expected_bits = gpu_logits(&large, &load(&large, &checkpoint, None).await, &ids).await;
    assert_nmse("large", &expected_bits, &expected, EXACT);

    // WebGPU's guarantee: 128 MiB a binding, 8 storage buffers.
    let guaranteed = small_context(wgpu::Limits::default()).await;
    assert_eq!(guaranteed.limits().max_storage_buffer_binding_size, 128 << 20);
    assert_eq!(guaranteed.limits().max_storage_buffers_per_shader_stage, 8);
    let model = load(&guaranteed, &checkpoint, None).await;
    assert_eq!(gpu_logits(&guaranteed, &model, &ids).await, expected_bits);

    // The embedding takes 40 KiB and is bound in two parts.
    let tiny = small_context(wgpu::Limits {
        max_storage_buffer_binding_size: 32 << 10,
        ..Default::default()
    })
    .await;
    let model = load(&tiny, &checkpoint, None).await;
    assert_eq!(gpu_logits(&tiny, &model, &ids).await, expected_bits);

    // A prompt's activations are too large for it, which is an error and not the end.
    let refused = Decoder::new(&on_gpu(&tiny, &model), None).map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::OutOfMemory(_)), "{refused}");
    assert_eq!(gpu_logits(&tiny, &model, &ids).await, expected_bits);
}

#[async_test]
async fn decoding_token_by_token_is_the_full_forward() {
    let context = context().await;
    let q4 = load(&context, &gguf("q4_0").await, None).await;
    let odd = load(&context, &open_folder("tiny_odd").await, None).await;
    for model in [q4, odd] {
        let vocab = model.config.vocab_size;
        let ids = noise(37, vocab);
        let full = gpu_logits(&context, &model, &ids).await;
        let mut decoder = decoder(&context, &model);
        decoder.prefill(&ids[..5]).unwrap();
        for t in 5..=ids.len() {
            let expected = &full[(t - 1) * vocab..][..vocab];
            assert_close(&format!("token {t}"), &logits(&decoder).await, expected, SAME);
            assert_eq!(decoder.pick().await.unwrap(), argmax(&logits(&decoder).await), "token {t}");
            assert_eq!(argmax(&logits(&decoder).await), argmax(expected), "token {t}");
            if let Some(&id) = ids.get(t) {
                decoder.advance(id).unwrap();
            }
        }
        assert_eq!(decoder.history(), ids);
    }
}

#[async_test]
async fn long_prompts_go_in_chunks_and_the_cache_grows() {
    let context = context().await;
    let model = load(&context, &open_folder("tiny_odd").await, None).await;
    let vocab = model.config.vocab_size;
    let ids = noise(400, vocab);
    let full = gpu_logits(&context, &model, &ids).await;
    let row = |t: usize| &full[(t - 1) * vocab..][..vocab];

    // Around a chunk's end and the first growth; each computed in full.
    for length in [1, 127, 128, 129, 255, 256, 257, 300, 400] {
        let mut decoder = decoder(&context, &model);
        assert_eq!(decoder.prefill(&ids[..length]).unwrap(), length);
        assert_close(&format!("{length} tokens"), &logits(&decoder).await, row(length), SAME);
    }

    // Growth while decoding keeps what is in the cache.
    let mut decoder = decoder(&context, &model);
    decoder.prefill(&ids[..250]).unwrap();
    for t in 251..=262 {
        decoder.advance(ids[t - 1]).unwrap();
        assert_close(&format!("decoded {t}"), &logits(&decoder).await, row(t), SAME);
    }
}

#[async_test]
async fn greedy_tokens_in_one_submit_are_those_one_by_one() {
    let context = context().await;
    let model = load(&context, &open_folder("tiny_odd").await, None).await;
    let prompt = noise(250, model.config.vocab_size);
    let mut one_by_one = decoder(&context, &model);
    one_by_one.prefill(&prompt).unwrap();
    let mut expected = Vec::new();
    for _ in 0..75 {
        let id = one_by_one.pick().await.unwrap();
        one_by_one.advance(id).unwrap();
        expected.push(id);
    }
    // Over the cache's first growth and past the ring of picks.
    let mut batched = decoder(&context, &model);
    batched.prefill(&prompt).unwrap();
    let mut found = Vec::new();
    for count in [1, 8, Decoder::MOST_PICKS, 2, Decoder::MOST_PICKS] {
        found.extend(batched.extend(count).await.unwrap());
    }
    assert_eq!(found, expected);
    assert_eq!(batched.history(), [prompt, expected].concat());
    assert_close("after them", &logits(&batched).await, &logits(&one_by_one).await, SAME);
    for count in [0, Decoder::MOST_PICKS + 1] {
        assert!(batched.extend(count).await.is_err(), "{count}");
    }
}

#[async_test]
async fn a_cache_of_half_the_size_changes_little() {
    let context = context().await;
    let model = load(&context, &open_folder("tiny_odd").await, None).await;
    let ids = noise(60, model.config.vocab_size);
    let mut exact = decoder(&context, &model);
    let mut half = Decoder::with_cache(&on_gpu(&context, &model), None, KvType::F16).unwrap();
    for decoder in [&mut exact, &mut half] {
        decoder.prefill(&ids[..40]).unwrap();
        ids[40..].iter().for_each(|&id| decoder.advance(id).unwrap());
    }
    let (found, expected) = (logits(&half).await, logits(&exact).await);
    assert_ne!(found, expected);
    assert_nmse("half", &found, &expected, 1e-6);
}

#[async_test]
async fn several_draws_in_one_submit_are_those_one_by_one() {
    let context = context().await;
    let model = load(&context, &open_folder("tiny").await, None).await;
    let prompt = noise(20, model.config.vocab_size);
    let sampling = Sampling {
        temperature: 1.3,
        top_k: 50,
        top_p: 0.95,
        min_p: 0.001,
        repeat_penalty: 1.3,
        seed: 7,
    };
    let start = || {
        let mut decoder = decoder(&context, &model);
        decoder.set_sampling(&sampling).unwrap();
        decoder.prefill(&prompt).unwrap();
        decoder
    };
    let mut one_by_one = start();
    let mut expected = Vec::new();
    for _ in 0..24 {
        let id = one_by_one.pick().await.unwrap();
        one_by_one.advance(id).unwrap();
        expected.push(id);
    }
    let mut together = start();
    let found = together.extend(24).await.unwrap();
    assert_eq!(found, expected);
    // Not what is most likely.
    let mut greedy = start();
    greedy.set_sampling(&Sampling::default()).unwrap();
    greedy.prefill(&prompt).unwrap();
    assert_ne!(greedy.extend(24).await.unwrap(), expected);
    assert!(greedy.set_sampling(&Sampling { top_p: 2.0, ..sampling }).is_err());
}

#[async_test]
async fn a_shared_prefix_is_computed_once() {
    let context = context().await;
    let model = load(&context, &gguf("q8_0").await, None).await;
    let a = noise(150, model.config.vocab_size);
    let mut b = a[..140].to_vec();
    b.extend([1, 2, 3]);
    let mut decoder = decoder(&context, &model);
    assert_eq!(decoder.prefill(&a).unwrap(), 150);
    assert_eq!(decoder.prefill(&b).unwrap(), 3);
    assert_close("b after a", &logits(&decoder).await, &fresh(&context, &model, &b).await, SAME);
    // The same again, and a prefix of it: the last token is computed for its logits.
    for ids in [&b[..], &b[..20]] {
        assert_eq!(decoder.prefill(ids).unwrap(), 1);
        assert_close("again", &logits(&decoder).await, &fresh(&context, &model, ids).await, SAME);
        assert_eq!(decoder.history(), ids);
    }
    // Nothing in common.
    let c = [b[0] + 1, b[1]];
    assert_eq!(decoder.prefill(&c).unwrap(), 2);
    assert_close("c", &logits(&decoder).await, &fresh(&context, &model, &c).await, SAME);
}

#[async_test]
async fn truncated_tokens_are_forgotten() {
    let context = context().await;
    let model = load(&context, &open_folder("tiny").await, None).await;
    let ids = noise(40, model.config.vocab_size);
    let mut decoder = decoder(&context, &model);
    decoder.prefill(&ids[..30]).unwrap();
    decoder.extend(8).await.unwrap();
    decoder.truncate(20);
    assert_eq!(decoder.history(), &ids[..20]);
    decoder.advance(ids[20]).unwrap();
    assert_close(
        "advance",
        &logits(&decoder).await,
        &fresh(&context, &model, &ids[..21]).await,
        SAME,
    );
    decoder.truncate(10);
    assert_eq!(decoder.prefill(&ids).unwrap(), 30);
    assert_close("prefill", &logits(&decoder).await, &fresh(&context, &model, &ids).await, SAME);
}

#[async_test]
async fn the_context_ends_at_its_limit() {
    let context = context().await;
    let model = load(&context, &open_folder("tiny").await, None).await;
    let limit = model.config.max_position_embeddings;
    let ids = noise(limit + 1, model.config.vocab_size);
    let mut decoder = decoder(&context, &model);
    let overflows = |error: Error| {
        matches!(error, Error::ContextOverflow { needed, limit: l }
        if needed == limit + 1 && l == limit)
    };
    assert!(overflows(decoder.prefill(&ids).unwrap_err()));
    decoder.prefill(&ids[..limit]).unwrap();
    assert_close(
        "all of it",
        &logits(&decoder).await,
        gpu_logits(&context, &model, &ids[..limit])
            .await
            .rchunks(model.config.vocab_size)
            .next()
            .unwrap(),
        SAME,
    );
    assert!(overflows(decoder.advance(0).unwrap_err()));
    assert!(overflows(decoder.extend(1).await.unwrap_err()));
    // Refused calls leave it as it was.
    assert_eq!(decoder.prefill(&ids[..limit]).unwrap(), 1);
    for bad in [&[][..], &[model.config.vocab_size as u32]] {
        assert!(matches!(decoder.prefill(bad), Err(Error::Invalid(_))));
    }
}

#[async_test]
async fn loading_stops_when_its_caller_says_so() {
    let context = context().await;
    let checkpoint = open_folder("tiny").await;
    let mut calls = 0;
    let loaded = GpuLlama::to_gpu(&context, &checkpoint, None, &mut |done, total| {
        calls += 1;
        assert!(done <= total);
        if calls == 3 { Err(Error::Cancelled) } else { Ok(()) }
    })
    .await;
    assert!(matches!(loaded, Err(Error::Cancelled)));
    assert_eq!(calls, 3);
}
