//! A page's files as the library reads them.

use js_sys::Uint8Array;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::Blob;

use super::value;
use crate::formats::{ByteSource, Checkpoint, Reading, SafetensorsFolder};
use crate::{Error, Result};

/// A [`ByteSource`] over a `Blob`, which may lie on disk: only what is read is in memory.
struct BlobSource {
    name: String,
    blob: Blob,
}

impl ByteSource for BlobSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.blob.size() as u64
    }

    fn read_at<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> Reading<'a> {
        Box::pin(async move {
            let end = offset.saturating_add(buffer.len() as u64);
            if end > self.len() {
                return Err(Error::format(
                    &self.name,
                    format!(
                        "ends at byte {}, before {} bytes at {offset}; it is truncated, fetch it \
                         again",
                        self.len(),
                        buffer.len()
                    ),
                ));
            }
            // Sizes of blobs are exact in a double.
            let read = self.blob.slice_with_f64_and_f64(offset as f64, end as f64);
            let bytes = match read {
                Ok(part) => JsFuture::from(part.array_buffer()).await,
                Err(error) => Err(error),
            };
            let bytes = Uint8Array::new(&bytes.map_err(|error| self.unreadable(&error))?);
            if bytes.length() as usize != buffer.len() {
                return Err(self.unreadable(&JsValue::UNDEFINED));
            }
            bytes.copy_to(buffer);
            Ok(())
        })
    }
}

impl BlobSource {
    fn unreadable(&self, error: &JsValue) -> Error {
        let why = error.dyn_ref::<js_sys::Error>().map(|e| String::from(e.message()));
        let why = why.unwrap_or_else(|| "it came out shorter than it was".into());
        Error::format(&self.name, format!("can't be read any more ({why}); choose it again"))
    }
}

/// A model's files: one GGUF, or those of a folder.
#[derive(Debug, Clone)]
pub(super) struct ModelFiles(Vec<(String, Blob)>);

impl ModelFiles {
    /// Reads an array of `{ name, blob }`.
    pub(super) fn from_js(files: &js_sys::Array) -> Result<Self> {
        let file = |value: JsValue| {
            let get = |key: &str| js_sys::Reflect::get(&value, &key.into()).ok();
            let name = get("name").and_then(|name| name.as_string());
            let blob = get("blob").and_then(|blob| blob.dyn_into::<Blob>().ok());
            name.zip(blob).ok_or_else(|| Error::invalid("a file is given as { name, blob: Blob }"))
        };
        Ok(Self(files.iter().map(file).collect::<Result<_>>()?))
    }

    /// Bytes of all.
    pub(super) fn bytes(&self) -> f64 {
        self.0.iter().map(|(_, blob)| blob.size()).sum()
    }

    /// Reads the headers.
    pub(super) async fn open(&self) -> Result<Checkpoint> {
        let source = |(name, blob): &(String, Blob)| -> Box<dyn ByteSource> {
            Box::new(BlobSource { name: name.clone(), blob: blob.clone() })
        };
        if let [one] = &self.0[..] {
            return Checkpoint::from_gguf(source(one)).await;
        }
        let mut folder = SafetensorsFolder {
            name: String::new(),
            weights: Vec::new(),
            index_json: None,
            config_json: self.required("config.json").await?,
            generation_config_json: self.optional("generation_config.json").await?,
            tokenizer_json: self.required("tokenizer.json").await?,
            tokenizer_config_json: self.optional("tokenizer_config.json").await?,
            chat_template_jinja: self.optional("chat_template.jinja").await?,
        };
        folder.index_json = self.optional("model.safetensors.index.json").await?;
        let weights = self.0.iter().filter(|(name, _)| name.ends_with(".safetensors"));
        folder.weights = weights.map(|file| (file.0.clone(), source(file))).collect();
        Checkpoint::from_safetensors(folder).await
    }

    async fn required(&self, name: &str) -> Result<Vec<u8>> {
        self.optional(name).await?.ok_or_else(|| {
            Error::format(name, "missing; choose all files of the model's folder, or one GGUF")
        })
    }

    async fn optional(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some((_, blob)) = self.0.iter().find(|(found, _)| found == name) else {
            return Ok(None);
        };
        let source = BlobSource { name: name.to_owned(), blob: blob.clone() };
        let mut bytes = vec![0; value::length(name, source.len())?];
        source.read_at(0, &mut bytes).await?;
        Ok(Some(bytes))
    }
}
