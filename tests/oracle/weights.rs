//! The gradients of all of a model's own weights by our kernels and by burn.

use engram::data::batch::{BatchConfig, BatchSet, Semantics};
use engram::data::tokens::Example;
use engram::gpu::Step;
use engram::model::{Adapter, GpuWeights, Quantize, Weight};
use engram::train::{StepBuffers, StepOptions, StepRecording, weight_gradients};

use crate::common::*;
use crate::{burn_model, on_burn};

/// Both models, of which one has its embedding as its head, the other biases and a head of its own.
#[async_test]
async fn gradients_of_all_weights_are_burns() {
    let context = context().await;
    for (name, count) in [("tiny", 2 + 3 * 9), ("tiny_odd", 3 + 2 * 13)] {
        let checkpoint = open_folder(name).await;
        let model = load(&context, &checkpoint, Some(Quantize::F32)).await;
        let vocab = model.config.vocab_size as u32;
        let text = |length: u32, salt: u32| (0..length).map(|i| (i * 31 + salt) % vocab).collect();
        let examples = vec![Example::new(text(40, 3), 0), Example::new(text(9, 5), 4)];
        let semantics = Semantics::Engram;
        let config = BatchConfig { semantics, batch_size: 2, max_seq_length: 2048, seed: 0 };
        let batch = BatchSet::new(examples, config).unwrap().pack(&[0, 1]);

        let weights = GpuWeights::copied(&context, &model, &|_| true).unwrap();
        let buffers = StepBuffers::new(&context, &model, batch.tokens.len(), 40).unwrap();
        let step = Step { tokens: batch.tokens.len() as u32, ..Default::default() };
        buffers.write(&context, &batch.tokens, &batch.targets, &step);
        let gradients = weights.set.gradients(&context).unwrap();
        let unused = context.storage("gradients", 4).unwrap();
        let onto = weights.set.onto(&gradients);
        let (llama, none) = (&weights.llama, Adapter::new([]));
        let (onto, options) = ((&unused, &onto), StepOptions::default());
        let recording = StepRecording::new(&context, llama, &none, onto, &buffers, options);
        recording.unwrap().recording().submit(step.tokens, 1).unwrap();
        let loss = context.read::<f32>(&buffers.loss, 0, 1).await.unwrap()[0];
        let found = gradients.download(&context).await.unwrap();

        let engine = on_burn(&checkpoint).await;
        let (expected_loss, mut expected) = weight_gradients(burn_model(&engine), &batch).unwrap();
        let expected_loss = engram::burn::read(expected_loss).await.unwrap()[0];
        assert_near(name, loss, f64::from(expected_loss), 1e-5);
        let expected: Vec<_> = expected.weights_mut().into_iter().flatten().collect();
        assert_eq!((expected.len(), found.len()), (count, count), "{name}");
        for (weight, gradient) in expected {
            let expected = match gradient {
                Weight::Matrix(matrix) => engram::burn::read(matrix.clone()).await.unwrap(),
                Weight::Vector(vector, _) => engram::burn::read(vector.clone()).await.unwrap(),
            };
            assert!(expected.iter().any(|value| *value != 0.0), "{name}: {weight} has none");
            let found = &found[&weight].values;
            assert_eq!(found.len(), expected.len(), "{name}: {weight}");
            let error = relative_error(found, &expected);
            assert!(error <= 1e-5, "{name}: {weight} is off by {error:e}");
        }
    }
}
