//! Runs SmolLM2-135M on meganeura for scripts/bench-peers and prints its figures as JSON:
//! `bench-meganeura decode|inferena FOLDER SETTINGS`, with a Hugging Face folder of f32 weights.

mod decode;
mod inferena;
mod weights;

use std::path::Path;

use meganeura::Session;
use meganeura::data::safetensors::SafeTensorsModel;
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() {
    match run() {
        Ok(found) => println!("{found}"),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}

fn run() -> Result<Value> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, folder, settings] = &arguments[..] else {
        return Err("usage: bench-meganeura decode|inferena FOLDER SETTINGS".into());
    };
    let model = SafeTensorsModel::load(Path::new(folder).join("model.safetensors"))?;
    let settings: Value = serde_json::from_str(settings)?;
    match what.as_str() {
        "decode" => decode::run(&model, &settings),
        "inferena" => inferena::run(&model, &settings),
        _ => Err(format!("{what}: neither decode nor inferena").into()),
    }
}

/// A setting that is a list of token ids.
fn ids(settings: &Value, name: &str) -> Result<Vec<u32>> {
    Ok(serde_json::from_value(settings[name].clone())
        .map_err(|error| format!("{name}: {error}"))?)
}

/// A setting that is a count.
fn count(settings: &Value, name: &str) -> Result<usize> {
    Ok(settings[name].as_u64().ok_or_else(|| format!("{name}: no count"))? as usize)
}

/// Computes everything of the session's graph, and returns the milliseconds.
fn step(session: &mut Session) -> f64 {
    let began = std::time::Instant::now();
    session.step();
    session.wait();
    began.elapsed().as_secs_f64() * 1e3
}

fn device(session: &Session) -> Value {
    json!(session.device_information().device_name)
}
