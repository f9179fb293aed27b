//! The kernels' variants on the page's device: those that were remembered, or found now.

use serde::{Deserialize, Serialize};
use wasm_bindgen::prelude::*;

use super::clock;
use super::support::DeviceInfo;
use super::value::{from_js, to_js};
use crate::Result;
use crate::gpu::{Context, Variant, Variants};
use crate::kernels::tune::tune;

/// `DeviceInfo.variants` of the contract.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Variants", rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct InContract {
    matmul: Variant,
    matmul_transposed: Variant,
    matvec: Variant,
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Remembered(#[serde(with = "InContract")] Variants);

#[wasm_bindgen]
extern "C" {
    /// `Tuning` of `js/engram_wasm.d.ts`: where variants are kept.
    pub type Tuning;

    #[wasm_bindgen(method, catch)]
    async fn recall(this: &Tuning, key: &str) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn begin(this: &Tuning) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch)]
    async fn remember(this: &Tuning, key: &str, variants: JsValue) -> Result<JsValue, JsValue>;
}

/// Takes the fastest variants of the device: those that `tuning` has, or those that are found now.
/// What it has and the device can't run, or is nothing of the kind, counts as nothing, and so does
/// whatever it throws.
pub(super) async fn choose(
    context: &Context,
    device: &mut DeviceInfo,
    tuning: &Tuning,
) -> Result<()> {
    // Another version of either may differ.
    let key = format!("engram {}, {}", env!("CARGO_PKG_VERSION"), device.name);
    let kept = tuning.recall(&key).await.unwrap_or_default();
    let kept = from_js("variants", kept).ok().map(|Remembered(variants)| variants);
    match kept {
        Some(variants) if context.set_variants(variants).is_ok() => {}
        _ => {
            let _ = tuning.begin();
            let found = tune(context, &clock).await?;
            context.set_variants(found)?;
            let _ = tuning.remember(&key, to_js(&Remembered(found))?).await;
        }
    }
    device.variants = context.variants();
    Ok(())
}
