//! The inferena protocol: a forward of 128 tokens, one of one token, and the gradient of the loss.

use meganeura::data::safetensors::SafeTensorsModel;
use meganeura::models::smollm2::{SmolLM2Config, build_graph, build_training_graph};
use meganeura::{Graph, Session, build_inference_session, build_session};
use serde_json::{Value, json};

use crate::{Result, count, device, ids, step, weights};

pub fn run(model: &SafeTensorsModel, settings: &Value) -> Result<Value> {
    let config = SmolLM2Config::smollm2_135m();
    let (inputs, targets) = (ids(settings, "inputs")?, ids(settings, "targets")?);
    let repeats = count(settings, "repeats")?;
    let timed = |session: &mut Session| -> Vec<f64> {
        // The first run is the driver's too.
        step(session);
        (0..repeats).map(|_| step(session)).collect()
    };
    let forward = |ids: &[u32]| -> Result<(Vec<f64>, Session)> {
        let mut graph = Graph::new();
        let logits = build_graph(&mut graph, &config, ids.len());
        graph.set_outputs(vec![logits]);
        let mut session = build_inference_session(&graph);
        weights::load(&mut session, model, &config)?;
        session.set_input_u32("token_ids", ids);
        Ok((timed(&mut session), session))
    };

    let (forward_ms, session) = forward(&inputs)?;
    let logits = session.read_output(inputs.len() * config.vocab_size);
    let (one_token_ms, _) = forward(&inputs[..1])?;

    // Without an optimizer a step ends with the gradients, of all weights.
    let mut training = build_session(&build_training_graph(&config, inputs.len()));
    weights::load(&mut training, model, &config)?;
    // The last position has no target: a row of zeros adds neither loss nor gradient.
    let mut labels = vec![0.0; inputs.len() * config.vocab_size];
    for (position, &target) in targets.iter().enumerate() {
        labels[position * config.vocab_size + target as usize] = 1.0;
    }
    training.set_input_u32("token_ids", &inputs);
    training.set_input("labels", &labels);
    let step_ms = timed(&mut training);
    Ok(json!({
        "device": device(&training),
        "forward_ms": forward_ms,
        "one_token_ms": one_token_ms,
        "step_ms": step_ms,
        "loss": mean_loss(&logits, &targets, config.vocab_size),
        // It divides by all positions.
        "step_loss": training.read_loss() * inputs.len() as f32 / targets.len() as f32,
    }))
}

/// Mean cross-entropy of the targets, in f64.
fn mean_loss(logits: &[f32], targets: &[u32], vocab: usize) -> f64 {
    let losses = logits.chunks_exact(vocab).zip(targets).map(|(row, &target)| {
        let largest = f64::from(row.iter().copied().fold(f32::MIN, f32::max));
        let sum: f64 = row.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
        sum.ln() + largest - f64::from(row[target as usize])
    });
    losses.sum::<f64>() / targets.len() as f64
}
