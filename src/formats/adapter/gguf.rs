//! llama.cpp's adapter file: a GGUF that holds LoRA alone (`convert_lora_to_gguf.py`,
//! `llama-adapter.cpp`).
//!
//! `blk.N.attn_q.weight.lora_a` is (rank, in) and `….lora_b` (out, rank), PEFT's transposes; of q
//! and k the rows of `lora_b` have their rotary pairs interleaved, as the base model's. Of
//! `token_embd.weight` `lora_a` is (vocab, rank). One alpha
//! holds for all: the scale is alpha / rank, and 1 if alpha is 0.

use std::collections::BTreeMap;

use super::names::Part;
use super::{check_writable, is_dora};
use crate::formats::names::{from_gguf, has_rotary_rows, to_gguf};
use crate::formats::quant::dequantize;
use crate::formats::{Announced, ByteSource, DType, Gguf, GgufTensor, Pairs, gguf_header};
use crate::model::{
    Adapter, AdapterTensors, Lora, ModelConfig, Module, SUPPORTED_MODEL_TYPES, Target,
};
use crate::{Error, Result};

const ALPHA: &str = "adapter.lora.alpha";
const ENDS: [(&str, Part); 2] = [(".lora_a", Part::A), (".lora_b", Part::B)];
const ALIGNMENT: usize = 32;

/// A matrix of the file: (rows, cols), row-major.
struct Matrix {
    rows: usize,
    cols: usize,
    values: Vec<f32>,
}

/// Whether it is the header of an adapter, not of a model.
pub fn is_gguf_adapter(gguf: &Gguf) -> bool {
    matches!(gguf.metadata.string("general.type"), Ok(Some("adapter")))
}

/// Reads a GGUF adapter of a model of `config`, which it is checked against. Without one, the rows
/// of q and k stay in llama.cpp's order: enough to tell what is in the file.
///
/// # Errors
/// A file that is no LoRA adapter or of another architecture; tensors that are not updates of
/// linear layers, lack their other half or are not of the model; numbers that are not finite; and
/// what [`Gguf::parse`] gives.
pub async fn read_gguf(
    source: &dyn ByteSource,
    config: Option<&ModelConfig>,
) -> Result<AdapterTensors> {
    let gguf = Gguf::parse(source).await?;
    let metadata = &gguf.metadata;
    let wrong = |problem: String| Err(Error::format(source.name(), problem));
    if !is_gguf_adapter(&gguf) {
        return wrong("is a model, not an adapter; give it as --model".into());
    }
    let architecture = config.map_or(SUPPORTED_MODEL_TYPES[0], |config| &config.model_type);
    for (key, expected) in [("general.architecture", architecture), ("adapter.type", "lora")] {
        let found = metadata.string(key)?.unwrap_or_default();
        if found != expected {
            return wrong(format!("`{key}` is `{found}`, and only `{expected}` is supported"));
        }
    }
    let alpha = metadata.float(ALPHA)?.unwrap_or(0.0);
    let mut found: BTreeMap<Module, [Option<Matrix>; 2]> = BTreeMap::new();
    for tensor in &gguf.tensors {
        let Some((module, part)) = parse_name(&tensor.name) else {
            let example = tensor_name(Module::Linear(0, Target::Q), Part::A);
            return wrong(format!(
                "tensor `{}` is not an update, such as `{example}`",
                tensor.name
            ));
        };
        let matrix = read_matrix(source, tensor).await?;
        found.entry(module).or_default()[usize::from(part == Part::B)] = Some(matrix);
    }
    let mut updates = Vec::with_capacity(found.len());
    for (module, halves) in found {
        let [Some(a), Some(b)] = halves else {
            let name = tensor_name(module, Part::A);
            return wrong(format!(
                "`{name}` or its `lora_b` is missing; convert the adapter again"
            ));
        };
        let is_embedding = module == Module::Embedding;
        let rank = if is_embedding { a.cols } else { a.rows };
        if b.cols != rank {
            let name = tensor_name(module, Part::B);
            return wrong(format!("tensor `{name}` has rank {}, its `lora_a` {rank}", b.cols));
        }
        let heads = config.map(|config| config.head_dim);
        let head = heads.filter(|_| has_rotary_rows(&weight(module)));
        let (of_b, rows) = (b.values, b.rows);
        if let Some(head) = head.filter(|&head| !rows.is_multiple_of(head)) {
            let name = tensor_name(module, Part::B);
            return wrong(format!(
                "tensor `{name}` has {rows} rows, not whole heads of {head}; the adapter is for \
                 another model"
            ));
        }
        let column = |row: usize| head.map_or(row, |head| interleaved_row(row, head));
        let b = (0..rank)
            .flat_map(|r| (0..rows).map(move |row| (r, row)))
            .map(|(r, row)| of_b[column(row) * rank + r])
            .collect();
        let scale = if alpha == 0.0 { 1.0 } else { alpha / rank as f32 };
        let a = if is_embedding { a.values } else { transposed(&a.values, a.cols) };
        updates.push((module, Lora { a, b, rank, scale, magnitude: None }));
    }
    let adapter = Adapter::of_modules(updates);
    if adapter.is_empty() {
        return wrong("holds no tensors; it is not an adapter".into());
    }
    if let Some(config) = config {
        adapter.check(source.name(), config)?;
        check_untied(source.name(), &adapter, config)?;
    }
    Ok(adapter)
}

/// The GGUF file, in f32, of an adapter of a model of `config`, which goes by the name `base_model`.
///
/// The first update's scale is alpha's. Where another has a scale of its own, `lora_b` is
/// multiplied by the ratio of the two: it computes the same, but does not come back as it was.
///
/// # Errors
/// An adapter that is not one of the model or is empty; DoRA and whole weights, which llama.cpp's
/// adapters do not have.
pub fn write_gguf(
    adapter: &AdapterTensors,
    config: &ModelConfig,
    base_model: &str,
) -> Result<Vec<u8>> {
    check_writable(adapter, config)?;
    check_untied("the adapter", adapter, config)?;
    if !adapter.weights().is_empty() {
        return Err(Error::invalid(
            "a GGUF adapter can't hold whole weights; fuse the adapter into the model",
        ));
    }
    if is_dora(adapter)? {
        return Err(Error::invalid(
            "a GGUF adapter can't hold DoRA's magnitudes; fuse the adapter into the model",
        ));
    }
    let first = adapter.modules().find(|(_, lora)| lora.scale != 0.0);
    let alpha = first.map_or(1.0, |(_, lora)| alpha(lora.scale, lora.rank));
    let mut pairs = Pairs::default();
    pairs.string("general.architecture", &config.model_type);
    pairs.string("general.type", "adapter");
    pairs.string("adapter.type", "lora");
    if !base_model.is_empty() {
        pairs.u32("general.base_model.count", 1);
        pairs.string("general.base_model.0.name", base_model);
    }
    pairs.f32(ALPHA, alpha);
    pairs.u32("general.file_type", 0);
    pairs.u32("general.quantization_version", 2);
    let (mut announced, mut data) = (Vec::new(), Vec::new());
    for (module, lora) in adapter.modules() {
        let (ins, outs) = module.shape(config);
        let rank = lora.rank;
        let scale = alpha / rank as f32;
        let ratio = if scale == lora.scale { 1.0 } else { lora.scale / scale };
        let head = has_rotary_rows(&weight(module)).then_some(config.head_dim);
        let mut b = vec![0.0; lora.b.len()];
        for row in 0..outs {
            let stored = head.map_or(row, |head| interleaved_row(row, head));
            for r in 0..rank {
                b[stored * rank + r] = lora.b[r * outs + row] * ratio;
            }
        }
        if let Some(value) = b.iter().find(|value| !value.is_finite()) {
            let name = tensor_name(module, Part::B);
            return Err(Error::invalid(format!(
                "`{name}` would hold {value}; the scales differ too much"
            )));
        }
        let (shape_of_a, a) = match module {
            Module::Embedding => (vec![ins, rank], lora.a.clone()),
            _ => (vec![rank, ins], transposed(&lora.a, rank)),
        };
        let halves = [(Part::A, shape_of_a, a), (Part::B, vec![outs, rank], b)];
        for (part, shape, values) in halves {
            let name = tensor_name(module, part);
            announced.push(Announced { name, dtype: DType::F32, shape });
            data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
        }
    }
    let mut file = gguf_header(&pairs, &announced, ALIGNMENT as u64)?;
    file.extend(data);
    Ok(file)
}

/// The alpha of which `rank` is that `scale`, to the last bit if there is one.
fn alpha(scale: f32, rank: usize) -> f32 {
    let rank = rank as f32;
    let nearest = scale * rank;
    let near = [nearest, nearest.next_up(), nearest.next_down()];
    near.into_iter().find(|alpha| alpha / rank == scale).unwrap_or(nearest)
}

/// Where llama.cpp has row `row` of heads of `head` rows.
fn interleaved_row(row: usize, head: usize) -> usize {
    let (at, half) = (row % head, head / 2);
    row - at + 2 * (at % half) + at / half
}

/// Refuses updates of a matrix that is embedding and head at once: llama.cpp takes what is the
/// embedding's for the head's too, whose halves lie the other way round.
fn check_untied(name: &str, adapter: &AdapterTensors, config: &ModelConfig) -> Result<()> {
    match adapter.outside_of_blocks().filter(|_| config.tie_word_embeddings) {
        None => Ok(()),
        Some(module) => Err(Error::format(
            name,
            format!(
                "updates `{}`, which llama.cpp can't where the head is the embedding; keep it as \
                 PEFT's",
                module.path()
            ),
        )),
    }
}

fn weight(module: Module) -> String {
    format!("{}.weight", module.path())
}

fn tensor_name(module: Module, part: Part) -> String {
    let end = if part == Part::A { ENDS[0].0 } else { ENDS[1].0 };
    format!("{}{end}", to_gguf(&weight(module)))
}

fn parse_name(name: &str) -> Option<(Module, Part)> {
    ENDS.into_iter().find_map(|(end, part)| {
        let name = from_gguf(name.strip_suffix(end)?);
        let (module, rest) = Module::split(&name)?;
        (rest == "weight").then_some((module, part))
    })
}

async fn read_matrix(source: &dyn ByteSource, tensor: &GgufTensor) -> Result<Matrix> {
    let wrong =
        |problem| Err(Error::format(source.name(), format!("tensor `{}` {problem}", tensor.name)));
    let &[rows, cols] = &tensor.shape[..] else {
        return wrong(format!("has shape {:?}; it should be a matrix", tensor.shape));
    };
    // The header was checked: the file is at least that long, and no axis is 0.
    let count = rows * cols;
    if isize::try_from(count.saturating_mul(4)).is_err() {
        return wrong("is too large for this machine".into());
    }
    let mut bytes = vec![0; tensor.bytes as usize];
    source.read_at(tensor.offset, &mut bytes).await?;
    let mut values = vec![0.0; count];
    dequantize(tensor.dtype, &bytes, &mut values)?;
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => wrong(format!("holds {value}")),
        None => Ok(Matrix { rows, cols, values }),
    }
}

/// The transpose of row-major `values` (rows, cols).
fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|j| values[j..].iter().step_by(cols).copied()).collect()
}

#[cfg(test)]
mod tests {
    use pollster::block_on;
    use proptest::prelude::*;

    use super::super::tests::{adapter, dora, lora, model, of_tables, tied_model};
    use super::*;
    use crate::formats::Bytes;
    use crate::model::NamedTensor;
    use crate::testing::test;

    fn read(bytes: Vec<u8>) -> Result<AdapterTensors> {
        block_on(read_gguf(&Bytes::new("lora.gguf", bytes), Some(&model())))
    }

    fn written(adapter: &AdapterTensors) -> Vec<u8> {
        write_gguf(adapter, &model(), "mine").unwrap()
    }

    fn header(bytes: &[u8]) -> Gguf {
        block_on(Gguf::parse(&Bytes::new("lora.gguf", bytes))).unwrap()
    }

    /// The f32 values of a tensor.
    fn values(bytes: &[u8], name: &str) -> Vec<f32> {
        let gguf = header(bytes);
        let tensor = gguf.tensors.iter().find(|tensor| tensor.name == name).expect(name);
        let at = tensor.offset as usize;
        bytemuck::pod_collect_to_vec(&bytes[at..at + tensor.bytes as usize])
    }

    /// A GGUF of one pair of matrices and what else is to be in it.
    fn file(pairs: &[(&str, &str)], tensors: &[(&str, DType, &[usize])]) -> Vec<u8> {
        let mut all = Pairs::default();
        pairs.iter().for_each(|(key, value)| all.string(key, value));
        let announced = |&(name, dtype, shape): &(&str, _, &[usize])| Announced {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
        };
        let announced: Vec<Announced> = tensors.iter().map(announced).collect();
        let mut file = gguf_header(&all, &announced, 32).unwrap();
        for tensor in &announced {
            let bytes = tensor.bytes().unwrap().next_multiple_of(32) as usize;
            file.resize(file.len() + bytes, 0);
        }
        file
    }

    const LORA: [(&str, &str); 3] =
        [("general.type", "adapter"), ("general.architecture", "llama"), ("adapter.type", "lora")];

    #[test]
    fn an_adapter_comes_back_as_it_was() {
        let every = Target::ALL.map(|target| [(0, target), (2, target)]).concat();
        for keys in [&every[..], &[(1, Target::K)]] {
            let adapter = adapter(keys);
            let bytes = written(&adapter);
            assert!(is_gguf_adapter(&header(&bytes)));
            assert_eq!(read(bytes).unwrap(), adapter);
        }
        // Scales of rsLoRA's and of uneven quotients.
        for (rank, scale) in [(8, 20.0), (3, 16.0 / 3.0), (5, 6.0 / 5.0), (4, 1e-3), (2, 0.3)] {
            let adapter = Adapter::new([((1, Target::V), lora(Target::V, rank, scale))]);
            assert_eq!(read(written(&adapter)).unwrap(), adapter);
        }
    }

    #[test]
    fn names_shapes_and_rows_are_llama_cpps() {
        let adapter = adapter(&[(1, Target::Q), (1, Target::Down)]);
        let bytes = written(&adapter);
        let gguf = header(&bytes);
        let found: Vec<(&str, &[usize])> =
            gguf.tensors.iter().map(|tensor| (tensor.name.as_str(), &tensor.shape[..])).collect();
        let expected: [(&str, &[usize]); 4] = [
            ("blk.1.attn_q.weight.lora_a", &[3, 6]),
            ("blk.1.attn_q.weight.lora_b", &[8, 3]),
            ("blk.1.ffn_down.weight.lora_a", &[3, 10]),
            ("blk.1.ffn_down.weight.lora_b", &[6, 3]),
        ];
        assert_eq!(found, expected);
        let alpha = gguf.metadata.float("adapter.lora.alpha").unwrap();
        assert_eq!(alpha, Some(0.3 * 3.0));
        // Heads of 4: rows 0 1 2 3 are stored as 0 2 1 3.
        let q = &adapter.get(1, Target::Q).unwrap().b;
        let stored = values(&bytes, "blk.1.attn_q.weight.lora_b");
        let expected: Vec<f32> = [0, 2, 1, 3, 4, 6, 5, 7]
            .iter()
            .flat_map(|row| (0..3).map(move |r| q[r * 8 + row]))
            .collect();
        assert_eq!(stored, expected);
    }

    #[test]
    fn embedding_and_head_have_the_places_of_llama_cpps() {
        let adapter = of_tables(true);
        let scales = adapter.modules().map(|(module, lora)| {
            (module, Lora { scale: 12.0 / lora.rank as f32, ..lora.clone() })
        });
        let adapter = Adapter::of_modules(scales);
        let bytes = written(&adapter);
        let shapes = |name: &str| {
            let gguf = header(&bytes);
            gguf.tensors.into_iter().find(|tensor| tensor.name == name).expect(name).shape
        };
        assert_eq!(shapes("token_embd.weight.lora_a"), [40, 2]);
        assert_eq!(shapes("token_embd.weight.lora_b"), [6, 2]);
        assert_eq!(shapes("output.weight.lora_a"), [4, 6]);
        assert_eq!(shapes("output.weight.lora_b"), [40, 4]);
        let embedding = adapter.of(Module::Embedding).unwrap();
        assert_eq!(values(&bytes, "token_embd.weight.lora_a"), embedding.a);
        assert_eq!(read(bytes.clone()).unwrap(), adapter);
        let tied = tied_model();
        let source = Bytes::new("lora.gguf", bytes);
        for problem in [
            block_on(read_gguf(&source, Some(&tied))).unwrap_err(),
            write_gguf(&adapter, &tied, "").unwrap_err(),
        ] {
            let problem = problem.to_string();
            assert!(
                problem.contains("updates `model.embed_tokens`, which llama.cpp can't"),
                "{problem}"
            );
        }
    }

    #[test]
    fn scales_that_differ_go_into_b() {
        let adapter = Adapter::new([
            ((0, Target::V), lora(Target::V, 2, 0.5)),
            ((1, Target::V), lora(Target::V, 4, 2.0)),
            ((2, Target::V), lora(Target::V, 2, 0.0)),
        ]);
        let found = read(written(&adapter)).unwrap();
        for (layer, target, lora) in adapter.iter() {
            let same = found.get(layer, target).unwrap();
            assert_eq!(same.a, lora.a);
            for (a, b) in same.b.iter().zip(&lora.b) {
                assert_eq!(same.scale * a, lora.scale * b, "{layer}");
            }
        }
    }

    #[test]
    fn what_no_gguf_adapter_can_say_is_named() {
        let dora = write_gguf(&dora(&[(0, Target::Q)]), &model(), "").unwrap_err().to_string();
        assert!(dora.contains("fuse the adapter into the model"), "{dora}");
        let weight = NamedTensor { shape: vec![6], values: vec![1.0; 6] };
        let weights = [("model.norm.weight".to_owned(), weight)].into();
        let weights = adapter(&[(0, Target::Q)]).with_weights(weights);
        let whole = write_gguf(&weights, &model(), "").unwrap_err().to_string();
        assert!(whole.contains("can't hold whole weights; fuse"), "{whole}");
        let empty = write_gguf(&Adapter::new([]), &model(), "").unwrap_err().to_string();
        assert!(empty.contains("updates nothing"), "{empty}");
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        let (a, b) = ("blk.0.attn_v.weight.lora_a", "blk.0.attn_v.weight.lora_b");
        let f32 = DType::F32;
        let of = |pairs: &[(&str, &str)], tensors: &[(&str, DType, &[usize])]| {
            let problem = read(file(pairs, tensors)).unwrap_err().to_string();
            assert!(problem.starts_with("lora.gguf: ") && !problem.contains('\n'), "{problem}");
            problem
        };
        let lora = |tensors: &[(&str, DType, &[usize])]| of(&LORA, tensors);
        let halves: [(&str, DType, &[usize]); 2] = [(a, f32, &[2, 6]), (b, f32, &[4, 2])];
        assert!(read(file(&LORA, &halves)).is_ok());
        let mut other = LORA;
        other[1].1 = "qwen2";
        let mut kind = LORA;
        kind[2].1 = "control_vector";
        for (problem, named) in [
            (of(&[], &halves), "is a model, not an adapter"),
            (of(&other, &halves), "`general.architecture` is `qwen2`"),
            (of(&kind, &halves), "`adapter.type` is `control_vector`"),
            (lora(&[]), "holds no tensors"),
            (lora(&halves[..1]), "or its `lora_b` is missing"),
            (
                lora(&[("output_norm.weight.lora_a", f32, &[2, 6])]),
                "is not an update, such as `blk.0",
            ),
            (lora(&[("blk.0.attn_norm.weight", f32, &[6])]), "is not an update, such as `blk.0"),
            (lora(&[(a, f32, &[6]), halves[1]]), "has shape [6]; it should be a matrix"),
            (lora(&[(a, f32, &[3, 6]), halves[1]]), "has rank 2, its `lora_a` 3"),
            (lora(&[(a, f32, &[2, 7]), halves[1]]), "lora_a is [7, 2], but the model expects"),
            (lora(&[halves[0], (b, f32, &[8, 2])]), "lora_b is [2, 8], but the model expects"),
            (
                lora(&[
                    ("blk.0.attn_q.weight.lora_a", f32, &[2, 6]),
                    ("blk.0.attn_q.weight.lora_b", f32, &[6, 2]),
                ]),
                "has 6 rows, not whole heads of 4",
            ),
            (
                lora(&[
                    ("blk.9.attn_v.weight.lora_a", f32, &[2, 6]),
                    ("blk.9.attn_v.weight.lora_b", f32, &[4, 2]),
                ]),
                "the model has only 3 blocks",
            ),
        ] {
            assert!(problem.contains(named), "{problem}");
        }
        let mut infinite = written(&adapter(&[(0, Target::V)]));
        let at = header(&infinite).tensors[0].offset as usize;
        infinite[at..at + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
        let problem = read(infinite).unwrap_err().to_string();
        assert!(problem.contains("holds inf"), "{problem}");
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let bytes = written(&adapter(&[(0, Target::Q), (2, Target::Up)]));
        // Nothing but zeros is behind the last tensor.
        let end = header(&bytes).tensors.iter().map(|t| t.offset + t.bytes).max().unwrap() as usize;
        for cut in 0..end {
            assert!(read(bytes[..cut].to_vec()).is_err(), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn no_damage_panics(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = written(&adapter(&[(0, Target::Q), (2, Target::Up)]));
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Ok(read) = read(bytes) {
                prop_assert!(read.check("it", &model()).is_ok());
            }
        }
    }
}
