//! LoRA on the embedding and on the head, on the models that PEFT and mlx-lm have them on.

use super::adapters::read_for;
use crate::common::*;
use engram::generate::{Decoder, Engine, LoadedAdapter};
use engram::kernels::kv::KvType;
use engram::model::{Adapter, AdapterTensors, AnyAdapter, Module, Quantize, rope_table};
use engram::ops::Reference;

/// A folder of an adapter, its model, and the logits' name among the goldens.
const CASES: [(&str, &str, &str); 3] = [
    ("tiny_adapter_embedding", "tiny", "tiny.logits"),
    ("tiny_odd_adapter_embedding", "tiny_odd", "tiny_odd.logits"),
    ("tiny_adapter_embedding_mlx", "tiny", "tiny_mlx.logits"),
];

/// The engine, the adapter, the golden's tokens and logits.
async fn case((folder, model, logits): (&str, &str, &str)) -> Case {
    let checkpoint = open_folder(model).await;
    let (context, quantize) = (context().await, Some(Quantize::F32));
    let engine = Engine::load(&context, &checkpoint, quantize, &mut |_, _| Ok(())).await.unwrap();
    let tensors = read_for(folder, Some(engine.config())).await;
    tensors.check(folder, engine.config()).unwrap();
    let ids = Golden::open(&format!("{model}_forward.safetensors")).u32("input_ids");
    let expected = Golden::open("tiny_adapter_embedding.safetensors").f32(logits);
    Case { engine, tensors, ids, expected }
}

struct Case {
    engine: Engine,
    tensors: AdapterTensors,
    ids: Vec<u32>,
    expected: Vec<f32>,
}

impl Case {
    fn load(&self, tensors: AdapterTensors) -> LoadedAdapter {
        self.engine.load_adapter("mine", &AnyAdapter::Lora(tensors)).unwrap()
    }

    async fn logits(&self, adapter: Option<&LoadedAdapter>) -> Vec<f32> {
        self.engine.logits_all(&self.ids, adapter).await.unwrap()
    }
}

#[async_test]
async fn logits_are_those_of_peft_and_mlx_lm() {
    for names in CASES {
        let case = case(names).await;
        let loaded = case.load(case.tensors.clone());
        // mlx-lm's are of f32.
        let bound = if names.2 == "tiny_mlx.logits" { 1e-9 } else { 1e-10 };
        assert_nmse(names.0, &case.logits(Some(&loaded)).await, &case.expected, bound);

        // The naive reference says the same.
        let model = reference(&open_folder(names.1).await).await;
        let table = rope_table(&model.config, case.ids.len());
        let mut ops = Reference::new(&one_sequence(&case.ids), &table);
        let hidden = model.hidden(&mut ops, Some(&case.tensors)).unwrap();
        let logits = model.logits(&mut ops, &hidden, Some(&case.tensors)).unwrap().values;
        assert_nmse(names.0, &logits, &case.expected, bound);

        // The decoder, by prompt and by steps.
        let mut decoder =
            Decoder::with_cache(case.engine.model(), Some(&loaded), KvType::F32).unwrap();
        let vocab = case.engine.config().vocab_size;
        decoder.prefill(&case.ids[..1]).unwrap();
        for (id, expected) in case.ids.iter().zip(case.expected.chunks_exact(vocab)).skip(1) {
            decoder.advance(*id).unwrap();
            assert_nmse(names.0, &decoder.logits().await.unwrap(), expected, 1e-8);
        }
        decoder.truncate(0);
        decoder.prefill(&case.ids).unwrap();
        let last = &case.expected[case.expected.len() - vocab..];
        assert_nmse(names.0, &decoder.logits().await.unwrap(), last, bound);

        // The model is as it was.
        let golden = Golden::open(&format!("{}_forward.safetensors", names.1)).f32("logits");
        assert_nmse(names.0, &case.logits(None).await, &golden, 1e-10);
    }
}

#[async_test]
async fn a_blend_has_the_updates_of_the_embedding_and_the_head() {
    for names in CASES {
        let case = case(names).await;
        let parts = [("a", &case.tensors, 0.75), ("b", &case.tensors, 0.25)];
        let blend = case.load(AdapterTensors::blend(&parts).unwrap());
        assert_nmse(names.0, &case.logits(Some(&blend)).await, &case.expected, 1e-9);
    }
}

#[async_test]
async fn an_update_costs_the_embedding_one_dispatch_and_the_head_two() {
    let case = case(CASES[1]).await;
    let dispatches = |kept: &[Module]| {
        let some = case.tensors.modules().filter(|(module, _)| kept.contains(module));
        let some = Adapter::of_modules(some.map(|(module, lora)| (module, lora.clone())));
        let adapter = (!kept.is_empty()).then(|| case.load(some));
        let decoder = Decoder::new(case.engine.model(), adapter.as_ref()).unwrap();
        decoder.dispatches_per_token().unwrap()
    };
    let plain = dispatches(&[]);
    assert_eq!(dispatches(&[Module::Embedding]), plain + 1);
    assert_eq!(dispatches(&[Module::Head]), plain + 2);
    assert_eq!(dispatches(&[Module::Embedding, Module::Head]), plain + 3);
}
