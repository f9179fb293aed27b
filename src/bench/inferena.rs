//! The protocol of inferena, by which frameworks compare one another: SmolLM2-135M in f32, token ids
//! 0 … 127; forward, one token, and a step of training with the gradients of all weights.

use super::{Bench, Figure};
use crate::Result;
use crate::data::batch::BatchSet;
use crate::data::tokens::Example;
use crate::generate::{Forward, GpuModel, Likelihood, Model};
use crate::train::{AdapterType, TrainConfig, Trainer};
#[cfg(feature = "burn")]
use crate::{burn::BurnModel, model::Weight, train::weight_gradients};

/// Tokens of the text.
const TOKENS: u32 = 128;

impl Bench<'_> {
    /// Milliseconds of a forward pass over the text with the logits of every token, read back, of one
    /// token alone, and of the gradients of all weights, without an update; the mean loss of the text's
    /// next tokens.
    pub async fn inferena(&self) -> Result<Vec<Figure>> {
        let ids: Vec<u32> = (0..TOKENS).collect();
        let mut forward = Forward::new(self.engine.model(), None, ids.len())?;
        let once = async || {
            let began = (self.clock)();
            forward.run(&ids)?;
            for first in (0..ids.len()).step_by(Forward::MOST_ROWS) {
                let rows = Forward::MOST_ROWS.min(ids.len() - first);
                forward.logits(first, rows).await?;
            }
            Ok(((self.clock)() - began) * 1e3)
        };
        let mut figures = vec![self.take("inferena forward", "ms", once).await?];
        drop(forward);

        let mut decoder = self.engine.decoder(None)?;
        let once = async || {
            decoder.truncate(0);
            let began = (self.clock)();
            decoder.advance(0)?;
            decoder.pick().await?;
            Ok(((self.clock)() - began) * 1e3)
        };
        figures.push(self.take("inferena one token", "ms", once).await?);

        let step = match self.engine.model() {
            Model::Gpu(gpu) => self.inferena_training(gpu).await?,
            #[cfg(feature = "burn")]
            Model::Burn(model) => self.inferena_gradients(model).await?,
        };
        figures.push(step);

        let mut likelihood = Likelihood::new(self.engine.model(), None, ids.len())?;
        let nll = likelihood.nll(&ids, 1).await?;
        let loss = nll.iter().sum::<f64>() / nll.len() as f64;
        figures.push(Figure::counted("inferena loss", "nats", loss));
        Ok(figures)
    }

    /// The gradients of every weight there is, embedding and norms included: a step that adds to those of
    /// an update that never comes, since the protocol asks for no more.
    async fn inferena_training(&self, gpu: &GpuModel) -> Result<Figure> {
        let head = (!self.engine.config().tie_word_embeddings).then_some("lm_head");
        let whole = ["embed_tokens", "norm"].into_iter().chain(head);
        let config = TrainConfig {
            adapter_type: AdapterType::Full,
            num_layers: -1,
            modules_to_save: whole.map(str::to_owned).collect(),
            batch_size: 1,
            iters: self.runs as usize + 1,
            grad_accumulation_steps: self.runs as usize + 2,
            steps_per_report: 1,
            val_batches: 0,
            ..TrainConfig::default()
        };
        let set = training_text(&config)?;
        let initial = config.initial_adapter(self.engine.config())?;
        let mut trainer = Trainer::new(&gpu.context, &gpu.llama, &initial, set, None, &config)?;
        let once = async || {
            let began = (self.clock)();
            trainer.advance().await?;
            Ok(((self.clock)() - began) * 1e3)
        };
        self.take("inferena training step", "ms", once).await
    }

    /// The same by burn's autodiff.
    #[cfg(feature = "burn")]
    async fn inferena_gradients(&self, model: &BurnModel) -> Result<Figure> {
        let batch = training_text(&TrainConfig::default())?.pack(&[0]);
        let once = async || {
            let began = (self.clock)();
            let (_, mut gradients) = weight_gradients(model, &batch)?;
            // What is read of each has to be there by then.
            let firsts =
                gradients.weights_mut().into_iter().flatten().map(|(_, weight)| match weight {
                    Weight::Matrix(matrix) => matrix.clone().slice([0..1, 0..1]).reshape([1]),
                    Weight::Vector(vector, _) => vector.clone().slice(0..1),
                });
            crate::burn::read(burn::tensor::Tensor::cat(firsts.collect(), 0)).await?;
            Ok(((self.clock)() - began) * 1e3)
        };
        self.take("inferena training step", "ms", once).await
    }
}

/// The text to train on: one batch, each token but the last followed by the next.
fn training_text(config: &TrainConfig) -> Result<BatchSet> {
    BatchSet::new(vec![Example::new((0..TOKENS).collect(), 0)], config.batch_config())
}
