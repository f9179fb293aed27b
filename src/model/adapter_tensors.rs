//! An adapter in plain memory: as files hold it, before and after the GPU.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{Adapter, ModelConfig, Module, Target};
use crate::data::random::SplitMix64;
use crate::ops::Lora;
use crate::{Error, Result};

/// An adapter whose parameters are f32 values, row-major.
pub type AdapterTensors = Adapter<Lora<Vec<f32>>>;

impl AdapterTensors {
    /// An adapter that changes nothing yet: `a` uniform in ±1/√in, `b` zero, as in MLX-LM
    /// (`LoRALinear`). The same `seed` gives the same values.
    ///
    /// # Errors
    /// No layers, no targets, a layer that the model does not have, a `scale` that is not finite,
    /// and a `rank` of 0 or above the model's hidden size.
    pub fn init(
        config: &ModelConfig,
        layers: Range<usize>,
        targets: &[Target],
        rank: usize,
        scale: f32,
        seed: u64,
    ) -> Result<Self> {
        let blocks = config.num_hidden_layers;
        if layers.is_empty() || layers.end > blocks {
            return Err(Error::invalid(format!(
                "there are no layers {layers:?} to train in a model of {blocks}"
            )));
        }
        let places = layers.flat_map(|layer| targets.iter().map(move |&target| (layer, target)));
        let places = places.map(|place| (place, (rank, scale)));
        Self::init_on(config, &places.collect(), seed)
    }

    /// [`Self::init`] for linear layers that are named one by one, each with its rank and scale.
    ///
    /// # Errors
    /// As [`Self::init`].
    pub fn init_on(
        config: &ModelConfig,
        places: &BTreeMap<(usize, Target), (usize, f32)>,
        seed: u64,
    ) -> Result<Self> {
        let (blocks, hidden) = (config.num_hidden_layers, config.hidden_size);
        let last = places.last_key_value().map(|((layer, _), _)| *layer);
        if let Some(layer) = last.filter(|layer| *layer >= blocks) {
            return Err(Error::invalid(format!(
                "there is no layer {layer} in a model of {blocks}"
            )));
        }
        if places.is_empty() {
            return Err(Error::invalid("no linear layers to train; name at least one"));
        }
        for &(rank, scale) in places.values() {
            if rank == 0 || rank > hidden {
                return Err(Error::invalid(format!(
                    "the rank is {rank}; it must be between 1 and the model's hidden size, {hidden}"
                )));
            }
            if !scale.is_finite() {
                return Err(Error::invalid(format!("the scale is {scale}; it must be finite")));
            }
        }
        let mut random = SplitMix64::new(seed);
        let mut updates = Vec::new();
        for (&(layer, target), &(rank, scale)) in places {
            let (ins, outs) = target.shape(config);
            let bound = 1.0 / (ins as f64).sqrt();
            let mut value = || ((2.0 * random.next_f64() - 1.0) * bound) as f32;
            let a = (0..ins * rank).map(|_| value()).collect();
            let lora = Lora { a, b: vec![0.0; rank * outs], rank, scale, magnitude: None };
            updates.push(((layer, target), lora));
        }
        Ok(Self::new(updates))
    }

    /// The sum of adapters, each times its weight: their updates side by side, which is exact. The
    /// rank of a layer is the sum of theirs.
    ///
    /// # Errors
    /// No adapter; a weight that is not finite; beside others or with another weight than 1, an adapter
    /// of DoRA's or with whole weights, whose changes don't add up.
    pub fn blend(parts: &[(&str, &Self, f32)]) -> Result<Self> {
        if let [(_, alone, 1.0)] = parts {
            return Ok((*alone).clone());
        }
        let mut updates = BTreeMap::<_, Vec<_>>::new();
        for (name, adapter, weight) in parts {
            let wrong = |problem: &str| Err(Error::format(*name, problem.to_owned()));
            if !weight.is_finite() {
                return wrong(&format!("its weight is {weight}; it must be finite"));
            }
            if !adapter.weights().is_empty() {
                return wrong("brings whole weights, which can't be blended; use it alone");
            }
            for (module, lora) in adapter.modules() {
                if lora.magnitude.is_some() {
                    return wrong("is a DoRA adapter, which can't be blended; use it alone");
                }
                updates.entry(module).or_default().push((lora, *weight));
            }
        }
        if updates.is_empty() {
            return Err(Error::invalid("there are no adapters to blend"));
        }
        Ok(Self::of_modules(updates.into_iter().map(|(key, parts)| (key, side_by_side(&parts)))))
    }

    /// Whether the embedding's update and the head's are that of one matrix, which stays one.
    pub fn keeps_tied(&self) -> bool {
        let embedding = self.of(Module::Embedding).map(Lora::transposed);
        embedding.as_ref() == self.of(Module::Head)
    }

    /// Whether it is an adapter of a model of `config`; `name` is the adapter in errors.
    ///
    /// # Errors
    /// The first weight or update that is of a block the model does not have, has another shape than
    /// the model's, or a number that is not finite.
    pub fn check(&self, name: &str, config: &ModelConfig) -> Result<()> {
        for (weight, tensor) in self.weights() {
            let problem = |what: String| Err(Error::format(name, format!("`{weight}`: {what}")));
            let found = &tensor.shape;
            match config.weight_shape(weight) {
                None => return problem("the model has no such weight".into()),
                Some(expected) if *found != expected => {
                    return problem(format!(
                        "it is {found:?}, but the model expects {expected:?}; the adapter is for \
                         another model"
                    ));
                }
                Some(_) => {}
            }
            if found.iter().product::<usize>() != tensor.values.len() {
                return problem(format!("has {} values and shape {found:?}", tensor.values.len()));
            }
            if let Some(value) = tensor.values.iter().find(|value| !value.is_finite()) {
                return problem(format!("holds {value}"));
            }
        }
        for (module, lora) in self.modules() {
            let problem = |problem: String| {
                Err(Error::format(name, format!("`{}`: {problem}", module.path())))
            };
            let blocks = config.num_hidden_layers;
            match module {
                Module::Linear(layer, _) if layer >= blocks => {
                    return problem(format!(
                        "the model has only {blocks} blocks; the adapter is for another model"
                    ));
                }
                Module::Embedding | Module::Head if lora.magnitude.is_some() => {
                    return problem(
                        "is DoRA's, which is supported on the blocks' layers alone; merge it with \
                         PEFT's merge_and_unload"
                            .into(),
                    );
                }
                _ => {}
            }
            let rank = lora.rank;
            if rank == 0 {
                return problem("the rank is 0".into());
            }
            let (ins, outs) = module.shape(config);
            for (half, values, found, expected) in [
                ("lora_a", &lora.a, [lora.a.len() / rank, rank], [ins, rank]),
                ("lora_b", &lora.b, [rank, lora.b.len() / rank], [rank, outs]),
            ] {
                if found != expected || !values.len().is_multiple_of(rank) {
                    return problem(format!(
                        "{half} is {found:?}, but the model expects {expected:?}; the adapter is \
                         for another model"
                    ));
                }
                if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                    return problem(format!("{half} holds {value}"));
                }
            }
            if let Some(magnitude) = &lora.magnitude {
                if magnitude.len() != outs {
                    let found = magnitude.len();
                    return problem(format!(
                        "the magnitude is [{found}], but the model expects [{outs}]; the adapter is \
                         for another model"
                    ));
                }
                if let Some(value) = magnitude.iter().find(|value| !value.is_finite()) {
                    return problem(format!("the magnitude holds {value}"));
                }
            }
            if !lora.scale.is_finite() {
                return problem(format!("the scale is {}", lora.scale));
            }
        }
        Ok(())
    }
}

impl Lora<Vec<f32>> {
    /// The update of the transposed matrix: of an embedding, what a head of the same matrix has.
    pub fn transposed(&self) -> Self {
        let outs = self.b.len() / self.rank.max(1);
        let (a, b) = (transposed(&self.b, outs), transposed(&self.a, self.rank));
        Self { a, b, rank: self.rank, scale: self.scale, magnitude: None }
    }
}

/// The transpose of row-major `values` (rows, cols).
fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|j| values[j..].iter().step_by(cols).copied()).collect()
}

/// The sum of updates of one layer.
fn side_by_side(parts: &[(&Lora<Vec<f32>>, f32)]) -> Lora<Vec<f32>> {
    let rank = parts.iter().map(|(lora, _)| lora.rank).sum();
    let ins = parts.first().map_or(0, |(lora, _)| lora.a.len() / lora.rank.max(1));
    let row = |i: usize| {
        parts.iter().flat_map(move |(lora, _)| &lora.a[i * lora.rank..(i + 1) * lora.rank])
    };
    let b = parts.iter().flat_map(|(lora, weight)| {
        let factor = lora.scale * weight;
        lora.b.iter().map(move |b| b * factor)
    });
    let a = (0..ins).flat_map(row).copied().collect();
    Lora { a, b: b.collect(), rank, scale: 1.0, magnitude: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    fn config() -> ModelConfig {
        let json = br#"{"model_type": "llama", "vocab_size": 40, "hidden_size": 64,
            "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-5}"#;
        ModelConfig::from_json("config.json", json).unwrap()
    }

    fn init(
        layers: Range<usize>,
        targets: &[Target],
        rank: usize,
        scale: f32,
    ) -> Result<AdapterTensors> {
        AdapterTensors::init(&config(), layers, targets, rank, scale, 7)
    }

    #[test]
    fn a_new_adapter_fits_its_model_and_changes_nothing() {
        let adapter = init(0..2, &Target::ALL, 3, 2.0).unwrap();
        adapter.check("new", &config()).unwrap();
        assert_eq!(adapter.iter().count(), 14);
        let down = adapter.get(1, Target::Down).unwrap();
        assert_eq!((down.a.len(), down.b.len()), (96 * 3, 3 * 64));
        for (_, target, lora) in adapter.iter() {
            assert!(lora.b.iter().all(|&b| b == 0.0));
            let bound = 1.0 / (target.shape(&config()).0 as f32).sqrt();
            let largest = lora.a.iter().fold(0.0_f32, |most, a| most.max(a.abs()));
            assert!(largest <= bound && largest > 0.9 * bound, "{largest} of {bound}");
            let mean = lora.a.iter().sum::<f32>() / lora.a.len() as f32;
            assert!(mean.abs() < 0.2 * bound, "{mean} of {bound}");
        }
    }

    #[test]
    fn the_seed_alone_decides_the_values() {
        let one = init(0..2, &[Target::Q, Target::Down], 3, 2.0).unwrap();
        assert_eq!(one, init(0..2, &[Target::Down, Target::Q, Target::Q], 3, 2.0).unwrap());
        let other = AdapterTensors::init(&config(), 0..2, &[Target::Q, Target::Down], 3, 2.0, 8);
        assert_ne!(one, other.unwrap());
    }

    #[test]
    fn a_blend_is_the_weighted_sum() {
        let lora = |seed: f32, rank: usize| Lora {
            a: (0..2 * rank).map(|i| seed + i as f32).collect(),
            b: (0..3 * rank).map(|i| seed - i as f32).collect(),
            rank,
            scale: seed,
            magnitude: None,
        };
        let (one, two) = (lora(0.5, 1), lora(2.0, 2));
        let q = (0, Target::Q);
        let a = AdapterTensors::new([(q, one.clone()), ((1, Target::Up), one.clone())]);
        let b = AdapterTensors::new([(q, two.clone())]);
        let blended = AdapterTensors::blend(&[("a", &a, 0.7), ("b", &b, -0.3)]).unwrap();
        let delta = |lora: &Lora<Vec<f32>>, i: usize, o: usize| -> f32 {
            let product = |r: usize| lora.a[i * lora.rank + r] * lora.b[r * 3 + o];
            lora.scale * (0..lora.rank).map(product).sum::<f32>()
        };
        let found = blended.get(0, Target::Q).unwrap();
        assert_eq!((found.rank, blended.iter().count()), (3, 2));
        for (i, o) in [(0, 0), (0, 2), (1, 1)] {
            let expected = 0.7 * delta(&one, i, o) - 0.3 * delta(&two, i, o);
            assert!((delta(found, i, o) - expected).abs() < 1e-4, "{i}, {o}");
        }
        assert_eq!(AdapterTensors::blend(&[("a", &a, 1.0)]).unwrap(), a);
        let dora = AdapterTensors::new([(q, Lora { magnitude: Some(vec![1.0; 3]), ..one })]);
        for (parts, expected) in [
            (&[("a", &a, f32::NAN)][..], "a: its weight is NaN"),
            (&[("a", &a, 1.0), ("d", &dora, 1.0)], "d: is a DoRA adapter"),
            (&[], "no adapters to blend"),
        ] {
            let error = AdapterTensors::blend(parts).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn settings_that_make_no_adapter_are_named() {
        let q = &[Target::Q][..];
        for (result, named) in [
            (init(1..3, q, 3, 2.0), "no layers 1..3 to train in a model of 2"),
            (init(1..1, q, 3, 2.0), "no layers 1..1"),
            (init(0..2, &[], 3, 2.0), "no linear layers"),
            (init(0..2, q, 0, 2.0), "the rank is 0"),
            (init(0..2, q, usize::MAX, 2.0), "between 1 and the model's hidden size, 64"),
            (init(0..2, q, 3, f32::NAN), "the scale is NaN"),
        ] {
            let problem = result.unwrap_err().to_string();
            assert!(problem.contains(named), "{problem}");
        }
    }

    #[test]
    fn what_does_not_fit_the_model_is_named() {
        let problem = |layer, change: fn(&mut Lora<Vec<f32>>)| {
            let mut lora =
                Lora { a: vec![0.5; 128], b: vec![0.5; 32], rank: 2, scale: 1.0, magnitude: None };
            change(&mut lora);
            let adapter = Adapter::new([((layer, Target::K), lora)]);
            adapter.check("mine", &config()).unwrap_err().to_string()
        };
        let of_k = "mine: `model.layers.1.self_attn.k_proj`: ";
        for (problem, named) in [
            (problem(2, |_| ()), "the model has only 2 blocks"),
            (
                problem(1, |lora| lora.a.truncate(64)),
                "lora_a is [32, 2], but the model expects [64, 2]",
            ),
            (problem(1, |lora| lora.a.push(0.0)), "lora_a is [64, 2]"),
            (
                problem(1, |lora| lora.b.extend([0.0; 2])),
                "lora_b is [2, 17], but the model expects [2, 16]",
            ),
            (problem(1, |lora| lora.rank = 0), "the rank is 0"),
            (problem(1, |lora| lora.a[9] = f32::NAN), "lora_a holds NaN"),
            (problem(1, |lora| lora.b[9] = f32::INFINITY), "lora_b holds inf"),
            (problem(1, |lora| lora.scale = f32::INFINITY), "the scale is inf"),
            (
                problem(1, |lora| lora.magnitude = Some(vec![1.0; 3])),
                "the magnitude is [3], but the model expects [16]",
            ),
            (problem(1, |lora| lora.magnitude = Some(vec![f32::NAN; 16])), "magnitude holds NaN"),
        ] {
            assert!(problem.contains(named), "{problem}");
            assert!(problem.starts_with(of_k) || problem.contains("layers.2."), "{problem}");
        }
    }
}
