//! A checkpoint's tensors as the parameters of a compiled graph.

use std::collections::HashSet;

use meganeura::Session;
use meganeura::data::safetensors::SafeTensorsModel;
use meganeura::models::smollm2::{SmolLM2Config, transposed_weight_names};

use crate::Result;

/// Sets every parameter of the session; caches become zeros.
pub fn load(session: &mut Session, model: &SafeTensorsModel, config: &SmolLM2Config) -> Result<()> {
    let transposed: HashSet<String> = transposed_weight_names(config).into_iter().collect();
    for (name, buffer) in session.plan().param_buffers.clone() {
        let values = if name.starts_with("kv_cache.") {
            vec![0.0; session.plan().buffers[buffer.0 as usize] / 4]
        } else {
            joined(model, &name, &transposed)?
        };
        session.set_parameter(&name, &values);
    }
    Ok(())
}

/// One tensor, or several that the compiler put side by side, whose names a `+` joins.
fn joined(model: &SafeTensorsModel, name: &str, transposed: &HashSet<String>) -> Result<Vec<f32>> {
    let parts: Vec<&str> = name.split('+').collect();
    let mut values = Vec::new();
    for part in &parts {
        values.extend(model.tensor_f32(part)?);
    }
    if !parts.iter().any(|&part| transposed.contains(part)) {
        return Ok(values);
    }
    let columns = model.tensor_info()[parts[0]].shape[1];
    let rows = values.len() / columns;
    let turned = (0..values.len()).map(|at| values[at % rows * columns + at / rows]);
    Ok(turned.collect())
}
