//! What this browser can do, in words that help.

use js_sys::Reflect;
use serde::Serialize;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use super::error::coded;
use super::subgroups;
use super::value::to_js;
use super::variants::InContract;
use crate::gpu::{Context, ContextOptions, Variants};

/// `DeviceInfo` of the contract.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeviceInfo {
    pub(super) name: String,
    pub(super) is_software: bool,
    pub(super) max_storage_binding: u64,
    #[serde(with = "InContract")]
    pub(super) variants: Variants,
}

#[derive(Serialize)]
struct Support {
    ok: bool,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<DeviceInfo>,
    features: Vec<String>,
}

/// Features that the kernels may use where they are.
const OPTIONAL: [&str; 3] = ["shader-f16", "subgroups", "timestamp-query"];

/// `checkSupport` of the contract.
#[wasm_bindgen(js_name = checkSupport)]
pub async fn check_support() -> Result<JsValue, JsValue> {
    let features = features().await;
    let support = match open().await {
        Ok((_, device)) => Support {
            ok: true,
            message: match device.is_software {
                true => format!(
                    "{}: no GPU, the CPU computes in its place. That works, slowly: the tiny model \
                     is made for it.",
                    device.name
                ),
                false => device.name.clone(),
            },
            code: None,
            device: Some(device),
            features,
        },
        Err((code, message)) => {
            Support { ok: false, message, code: Some(code), device: None, features }
        }
    };
    Ok(to_js(&support)?)
}

/// The browser's WebGPU, or why there is none.
fn webgpu() -> Result<JsValue, (&'static str, String)> {
    get(&js_sys::global(), "navigator").and_then(|n| get(&n, "gpu")).ok_or((
        "no-webgpu",
        "This browser has no WebGPU, or the page is not served over https or from localhost. \
         Chrome and Edge 113, Safari 26 and Firefox 141 have it, or newer."
            .into(),
    ))
}

/// A device, or why there is none.
pub(super) async fn open() -> Result<(Context, DeviceInfo), (&'static str, String)> {
    let gpu = webgpu()?;
    if Context::adapters().await.is_empty() {
        return Err((
            "no-adapter",
            "The browser has WebGPU but gives no GPU: hardware acceleration may be switched off in \
             its settings, or this GPU's driver may be on its block list (chrome://gpu says)."
                .into(),
        ));
    }
    let context = subgroups::open(&ContextOptions::default())
        .await
        .map_err(|error| ("limits", format!("This GPU can't be used: {error}")))?;
    let device = DeviceInfo {
        name: adapter_name(&gpu).await.unwrap_or_else(|| context.adapter().name.clone()),
        is_software: context.adapter().is_software,
        max_storage_binding: context.limits().max_storage_buffer_binding_size,
        variants: context.variants(),
    };
    Ok((context, device))
}

/// [`open`] with a thrown error.
pub(super) async fn require() -> Result<(Context, DeviceInfo), JsValue> {
    open().await.map_err(|(code, message)| coded(code, &message))
}

/// A device with all that its adapter has, as burn needs it.
#[cfg(feature = "burn-wgpu")]
pub(super) async fn require_whole() -> Result<Context, JsValue> {
    webgpu().map_err(|(code, message)| coded(code, &message))?;
    let options = ContextOptions { whole_adapter: true, ..Default::default() };
    Ok(Context::new(&options).await?)
}

/// The adapter's name: its description where the browser gives one, else vendor and architecture.
async fn adapter_name(gpu: &JsValue) -> Option<String> {
    let info = get(&adapter(gpu).await?, "info")?;
    let text = |key: &str| get(&info, key)?.as_string().filter(|text| !text.is_empty());
    let parts: Vec<String> = ["vendor", "architecture"].into_iter().filter_map(text).collect();
    text("description").or_else(|| (!parts.is_empty()).then(|| parts.join(" ")))
}

async fn features() -> Vec<String> {
    let Ok(gpu) = webgpu() else { return Vec::new() };
    let found = adapter(&gpu).await.and_then(|adapter| get(&adapter, "features"));
    let has = |name: &&str| {
        let Some(set) = &found else { return false };
        let has = get(set, "has").and_then(|has| has.dyn_into::<js_sys::Function>().ok());
        has.and_then(|has| has.call1(set, &(*name).into()).ok()).is_some_and(|v| v.is_truthy())
    };
    OPTIONAL.iter().filter(|name| has(name)).map(|&name| name.to_owned()).collect()
}

async fn adapter(gpu: &JsValue) -> Option<JsValue> {
    let request = get(gpu, "requestAdapter")?.dyn_into::<js_sys::Function>().ok()?;
    let promise = request.call0(gpu).ok()?.dyn_into::<js_sys::Promise>().ok()?;
    JsFuture::from(promise).await.ok().filter(|adapter| !adapter.is_null())
}

/// A property that is there.
fn get(object: &JsValue, key: &str) -> Option<JsValue> {
    let value = Reflect::get(object, &key.into()).ok()?;
    (!value.is_undefined() && !value.is_null()).then_some(value)
}
