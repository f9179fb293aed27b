//! An adapter of any type, for inference.

use std::rc::Rc;

use super::{AdapterKind, Bottleneck, BurnModel, DoraModule, LinearUpdate, LoraModule};
use crate::model::{Adapter, AdapterTensors, AnyAdapter};
use crate::{Error, Result};

/// The updates of one adapter, whatever their type.
#[derive(Debug)]
pub struct BurnAdapter(pub Adapter<Rc<dyn LinearUpdate>>);

impl BurnAdapter {
    /// The kinds beside LoRA that [`Self::load`] knows.
    pub const KINDS: [&'static str; 1] = [Bottleneck::KIND];

    /// Puts an adapter of a type of this crate beside `model`; `name` is the adapter in errors.
    ///
    /// # Errors
    /// An unknown kind; as [`AdapterKind::load`].
    pub fn load(model: &BurnModel, name: &str, adapter: &AnyAdapter) -> Result<Self> {
        Ok(match adapter {
            AnyAdapter::Lora(tensors) => {
                match tensors.iter().any(|(_, _, lora)| lora.magnitude.is_some()) {
                    true => Self::of(&DoraModule::load(model, name, adapter)?),
                    false => Self::of(&LoraModule::load(model, name, adapter)?),
                }
            }
            AnyAdapter::Named(named) if named.kind == Bottleneck::KIND => {
                Self::of(&Bottleneck::load(model, name, adapter)?)
            }
            AnyAdapter::Named(named) => {
                let problem = format!("{} is no adapter type of this program", named.kind);
                return Err(Error::format(name, problem));
            }
        })
    }

    /// The updates of `adapter`, which stays as it is.
    pub fn of<A: AdapterKind>(adapter: &Adapter<A>) -> Self {
        let update = |(layer, target, update): (_, _, &A)| {
            let update: Rc<dyn LinearUpdate> = Rc::new(update.clone());
            ((layer, target), update)
        };
        Self(Adapter::new(adapter.iter().map(update)))
    }
}

/// The updates of a LoRA or DoRA adapter that has nothing else.
pub(super) fn updates_alone<'a>(name: &str, adapter: &'a AnyAdapter) -> Result<&'a AdapterTensors> {
    let tensors = adapter.lora(name)?;
    if let Some(module) = tensors.outside_of_blocks() {
        let problem = format!("updates `{}`, for which use --engine wgpu", module.path());
        return Err(Error::format(name, problem));
    }
    match tensors.weights().keys().next() {
        None => Ok(tensors),
        Some(weight) => Err(Error::format(
            name,
            format!("brings a weight of its own, `{weight}`, for which use --engine wgpu"),
        )),
    }
}
