//! Data across the border: everything is plain objects, arrays, strings and numbers.

use serde::Serialize;
use serde::de::DeserializeOwned;
use wasm_bindgen::prelude::*;

use crate::{Error, Result};

/// A plain JavaScript value.
pub(super) fn to_js(value: &impl Serialize) -> Result<JsValue> {
    value
        .serialize(&serde_wasm_bindgen::Serializer::json_compatible())
        .map_err(|error| Error::invalid(error.to_string()))
}

/// What the caller passed as `what`.
pub(super) fn from_js<T: DeserializeOwned>(what: &str, value: JsValue) -> Result<T> {
    serde_wasm_bindgen::from_value(value)
        .map_err(|error| Error::invalid(format!("{what}: {error}")))
}

/// The text of a value that JSON can hold.
pub(super) fn json(what: &str, value: &JsValue) -> Result<String> {
    js_sys::JSON::stringify(value)
        .ok()
        .and_then(|text| text.as_string())
        .ok_or_else(|| Error::invalid(format!("{what} can't be written as JSON")))
}

/// Calls the caller's function; what it throws is the caller's affair.
pub(super) fn call(function: &js_sys::Function, argument: &JsValue) {
    let _ = function.call1(&JsValue::NULL, argument);
}

/// A file by name and content, as adapters come and go.
#[derive(Debug, Clone)]
pub(super) struct NamedFile {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

impl NamedFile {
    /// Reads an array of `{ name, bytes }`.
    pub(super) fn list(files: &js_sys::Array) -> Result<Vec<Self>> {
        let file = |value: JsValue| {
            let get = |key: &str| js_sys::Reflect::get(&value, &key.into()).ok();
            let name = get("name").and_then(|name| name.as_string());
            let bytes = get("bytes").and_then(|bytes| bytes.dyn_into::<js_sys::Uint8Array>().ok());
            match (name, bytes) {
                (Some(name), Some(bytes)) => Ok(Self { name, bytes: bytes.to_vec() }),
                _ => Err(Error::invalid("a file is given as { name, bytes: Uint8Array }")),
            }
        };
        files.iter().map(file).collect()
    }

    /// As the caller gets it.
    pub(super) fn to_js(&self) -> JsValue {
        let object = js_sys::Object::new();
        let bytes = js_sys::Uint8Array::from(&self.bytes[..]);
        // A fresh object takes properties.
        let _ = js_sys::Reflect::set(&object, &"name".into(), &self.name.as_str().into());
        let _ = js_sys::Reflect::set(&object, &"bytes".into(), &bytes);
        object.into()
    }
}

/// Largest of the small files that are read whole, bytes.
const MOST: u64 = 256 << 20;

/// The length of a file that is read whole.
pub(super) fn length(name: &str, bytes: u64) -> Result<usize> {
    match usize::try_from(bytes) {
        Ok(length) if bytes <= MOST => Ok(length),
        _ => Err(Error::format(name, format!("has {bytes} bytes, far more than such a file has"))),
    }
}
