//! What an adapter type is to burn, and how its parameters become files and flat arrays.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Debug;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor, TensorData};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{BurnModel, read};
use crate::data::random::SplitMix64;
use crate::model::{Adapter, AnyAdapter, NamedAdapter, NamedTensor, Target};
use crate::ops::Linear;
use crate::{Error, Result};

/// A linear layer of the frozen model: weight (out, in), bias (out).
pub type FrozenLinear = Linear<Tensor<2>, Tensor<1>>;

/// What an adapter makes of one linear layer.
pub trait LinearUpdate: Debug {
    /// The adapted output (T, out), from the layer's input `x` (T, in) and its own output `y`
    /// (T, out), bias included.
    fn forward(&self, layer: &FrozenLinear, x: &Tensor<2>, y: Tensor<2>) -> Tensor<2>;
}

/// An adapter type: a burn module per adapted linear layer.
///
/// `docs/adapter-types.md` writes one from scratch.
pub trait AdapterKind: Module + LinearUpdate + 'static {
    /// `peft_type` of its `adapter_config.json`, in capitals.
    const KIND: &'static str;

    /// What it is made by; its fields stand in `adapter_config.json` too.
    type Config: Serialize + DeserializeOwned + Clone + Debug;

    /// The update of one layer before any training. It should change nothing, or little.
    fn new(layer: &FrozenLinear, config: &Self::Config, random: &mut SplitMix64) -> Self;

    /// The updates of an adapter that was read from files; `name` is the adapter in errors.
    ///
    /// # Errors
    /// Another kind, another model's, a parameter that is missing or of another shape.
    fn load(model: &BurnModel, name: &str, adapter: &AnyAdapter) -> Result<Adapter<Self>> {
        load_named(model, name, adapter)
    }

    /// The adapter as files hold it.
    #[expect(async_fn_in_trait, reason = "used with static dispatch on one thread")]
    async fn save(adapter: &Adapter<Self>, config: &Self::Config) -> Result<AnyAdapter> {
        save_named(adapter, config).await
    }
}

/// A new adapter of `targets` in `layers`. The same `seed` gives the same values.
///
/// # Errors
/// Layers that the model does not have, or nothing to adapt.
pub fn fresh<A: AdapterKind>(
    model: &BurnModel,
    layers: std::ops::Range<usize>,
    targets: &[Target],
    config: &A::Config,
    seed: u64,
) -> Result<Adapter<A>> {
    let places = layers.flat_map(|layer| targets.iter().map(move |&target| (layer, target)));
    fresh_on(model, &places.collect(), config, seed)
}

/// [`fresh`] for linear layers that are named one by one.
///
/// # Errors
/// As [`fresh`].
pub fn fresh_on<A: AdapterKind>(
    model: &BurnModel,
    places: &BTreeSet<(usize, Target)>,
    config: &A::Config,
    seed: u64,
) -> Result<Adapter<A>> {
    let places = places.iter().map(|&place| (place, config.clone()));
    fresh_by(model, &places.collect(), seed)
}

/// [`fresh`] for linear layers that are named one by one, each with what its update is made by.
///
/// # Errors
/// As [`fresh`].
pub fn fresh_by<A: AdapterKind>(
    model: &BurnModel,
    places: &BTreeMap<(usize, Target), A::Config>,
    seed: u64,
) -> Result<Adapter<A>> {
    let blocks = model.llama.layers.len();
    if places.last_key_value().is_none_or(|((layer, _), _)| *layer >= blocks) {
        return Err(Error::invalid(format!(
            "there are no such layers to train in a model of {blocks} blocks"
        )));
    }
    let mut random = SplitMix64::new(seed);
    let update = |(&(layer, target), config): (&(usize, Target), &A::Config)| {
        let frozen = model.llama.linear(layer, target);
        ((layer, target), A::new(frozen, config, &mut random))
    };
    Ok(Adapter::new(places.iter().map(update)))
}

/// The parameters of every update, one after another, flat, outside of autodiff.
pub fn flat_parameters<A: AdapterKind>(adapter: &Adapter<A>) -> Vec<Tensor<1>> {
    struct Flat(Vec<Tensor<1>>);
    impl ModuleVisitor for Flat {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(param.val().inner().flatten(0, D - 1));
        }
    }
    let mut flat = Flat(Vec::new());
    adapter.iter().for_each(|(_, _, update)| update.visit(&mut flat));
    flat.0
}

/// The gradients of every parameter of `update`, in the order of [`flat_parameters`]; what has none
/// gets zeros.
pub fn flat_gradients<A: Module>(update: &A, gradients: &Gradients) -> Vec<Tensor<1>> {
    struct Flat<'a>(Vec<Tensor<1>>, &'a Gradients);
    impl ModuleVisitor for Flat<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            let gradient = tensor.grad(self.1).unwrap_or_else(|| tensor.inner().zeros_like());
            self.0.push(gradient.flatten(0, D - 1));
        }
    }
    let mut flat = Flat(Vec::new(), gradients);
    update.visit(&mut flat);
    flat.0
}

/// The adapter with the values of `flat`, in the order of [`flat_parameters`].
pub fn with_parameters<A: AdapterKind>(adapter: &Adapter<A>, flat: &Tensor<1>) -> Adapter<A> {
    struct Put<'a> {
        flat: &'a Tensor<1>,
        at: usize,
    }
    impl ModuleMapper for Put<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, old, mapper) = param.consume();
            let begin = self.at;
            self.at += old.shape().num_elements();
            let new = self.flat.clone().slice(begin..self.at).reshape(old.shape());
            let new = match old.is_autodiff() {
                true => new.autodiff().require_grad(),
                false => new,
            };
            Param::from_mapped_value(id, new, mapper)
        }
    }
    let mut put = Put { flat, at: 0 };
    let updates: Vec<_> = adapter
        .iter()
        .map(|(layer, target, update)| ((layer, target), update.clone().map(&mut put)))
        .collect();
    Adapter::new(updates)
}

/// The names of an update's parameters, such as `down.weight`, with their numbers of values.
pub(crate) fn parameter_names<A: Module>(update: &A) -> Vec<(String, usize)> {
    #[derive(Default)]
    struct Names {
        path: Vec<String>,
        found: Vec<(String, usize)>,
    }
    impl ModuleVisitor for Names {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.found.push((self.path.join("."), param.val().shape().num_elements()));
        }
    }
    let mut names = Names::default();
    update.visit(&mut names);
    names.found
}

/// Whether both adapt the same layers by parameters of the same sizes.
pub fn same_shape<A: AdapterKind>(one: &Adapter<A>, other: &Adapter<A>) -> bool {
    let shape = |adapter: &Adapter<A>| -> Vec<_> {
        adapter.iter().map(|(l, t, update)| (l, t, parameter_names(update))).collect()
    };
    shape(one) == shape(other)
}

/// A linear layer's path in the model.
fn module_path(layer: usize, target: Target) -> String {
    format!("model.layers.{layer}.{}", target.path())
}

async fn save_named<A: AdapterKind>(
    adapter: &Adapter<A>,
    config: &A::Config,
) -> Result<AnyAdapter> {
    #[derive(Default)]
    struct Shapes(Vec<Vec<usize>>);
    impl ModuleVisitor for Shapes {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(param.val().dims().to_vec());
        }
    }
    let mut values = flat_parameters(adapter).into_iter();
    let mut tensors = BTreeMap::new();
    for (layer, target, update) in adapter.iter() {
        let mut shapes = Shapes::default();
        update.visit(&mut shapes);
        for ((name, _), shape) in parameter_names(update).into_iter().zip(shapes.0) {
            let Some(values) = values.next() else { break };
            let name = format!("{}.{name}", module_path(layer, target));
            tensors.insert(name, NamedTensor { shape, values: read(values).await? });
        }
    }
    let mut fields = match serde_json::to_value(config) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let last = |target: Target| target.path().rsplit('.').next().unwrap_or_default();
    let mut targets: Vec<&str> = adapter.iter().map(|(_, target, _)| last(target)).collect();
    targets.sort_unstable();
    targets.dedup();
    let mut layers: Vec<usize> = adapter.iter().map(|(layer, _, _)| layer).collect();
    layers.dedup();
    fields.insert("target_modules".into(), targets.into());
    fields.insert("layers_to_transform".into(), layers.into());
    Ok(AnyAdapter::Named(NamedAdapter { kind: A::KIND.into(), config: fields, tensors }))
}

fn load_named<A: AdapterKind>(
    model: &BurnModel,
    name: &str,
    adapter: &AnyAdapter,
) -> Result<Adapter<A>> {
    let found = match adapter {
        AnyAdapter::Named(named) if named.kind == A::KIND => named,
        other => {
            let kind = other.kind();
            let problem = format!("is a {kind} adapter, not a {} one", A::KIND);
            return Err(Error::format(name, problem));
        }
    };
    let config: A::Config = serde_json::from_value(Value::Object(found.config.clone()))
        .map_err(|error| Error::format(name, format!("adapter_config.json: {error}")))?;
    let mut places: Vec<(usize, Target)> = Vec::new();
    for tensor in found.tensors.keys() {
        let place = Target::of_parameter(tensor).filter(|(l, _)| *l < model.llama.layers.len());
        let Some(place) = place else {
            let problem = format!("`{tensor}` is of no linear layer of the model");
            return Err(Error::format(name, problem));
        };
        places.push(place);
    }
    places.sort_unstable();
    places.dedup();
    let mut used = 0;
    let mut updates = Vec::new();
    for (layer, target) in places {
        let blank = A::new(model.llama.linear(layer, target), &config, &mut SplitMix64::new(0));
        let mut fill = Fill {
            tensors: &found.tensors,
            module: module_path(layer, target),
            path: Vec::new(),
            used: 0,
            problem: None,
        };
        let update = blank.map(&mut fill);
        if let Some(problem) = fill.problem {
            return Err(Error::format(name, problem));
        }
        used += fill.used;
        updates.push(((layer, target), update));
    }
    if used < found.tensors.len() {
        let problem = format!("holds parameters that a {} adapter does not have", A::KIND);
        return Err(Error::format(name, problem));
    }
    Ok(Adapter::new(updates))
}

/// Puts named values in the place of a new update's.
struct Fill<'a> {
    tensors: &'a BTreeMap<String, NamedTensor>,
    module: String,
    path: Vec<String>,
    used: usize,
    problem: Option<String>,
}

impl ModuleMapper for Fill<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = format!("{}.{}", self.module, self.path.join("."));
        let (id, old, mapper) = param.consume();
        let expected = old.dims();
        let new = match self.tensors.get(&name) {
            Some(found) if found.shape == expected => {
                self.used += 1;
                Tensor::from_data(TensorData::new(found.values.clone(), expected), &old.device())
            }
            found => {
                self.problem.get_or_insert_with(|| match found {
                    None => format!("`{name}` is missing"),
                    Some(found) => format!(
                        "`{name}` is {:?}, but the model and adapter_config.json expect \
                         {expected:?}",
                        found.shape
                    ),
                });
                old
            }
        };
        Param::from_mapped_value(id, new, mapper)
    }
}
