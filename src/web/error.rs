//! The crate's errors as JavaScript's.

use wasm_bindgen::prelude::*;

use crate::Error;

/// The `code` of an `EngramError`: what of an error a program may rely on.
fn code(error: &Error) -> &'static str {
    match error {
        Error::Format { .. } => "format",
        Error::Data { .. } => "data",
        Error::Invalid(_) => "invalid",
        Error::ContextOverflow { .. } => "context-overflow",
        Error::Gpu(_) => "gpu",
        Error::OutOfMemory(_) => "out-of-memory",
        Error::DeviceLost(_) => "device-lost",
        Error::NotFinite { .. } => "not-finite",
        Error::Io(_) => "internal",
        Error::Cancelled => "aborted",
    }
}

/// A JavaScript `Error` with `code`.
pub(super) fn coded(code: &str, message: &str) -> JsValue {
    let error = js_sys::Error::new(message);
    // A fresh error object takes a property.
    let _ = js_sys::Reflect::set(&error, &"code".into(), &code.into());
    error.into()
}

impl From<Error> for JsValue {
    fn from(error: Error) -> Self {
        coded(code(&error), &error.to_string())
    }
}
