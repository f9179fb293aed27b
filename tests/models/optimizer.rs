//! Training runs on the tiny model: PyTorch's Adam and MLX-LM's whole loop, step for step.

use std::rc::Rc;

use crate::common::*;
use engram::data::batch::{BatchSet, Semantics};
use engram::data::{jsonl, tokens};
use engram::gpu::Context;
use engram::model::{Adapter, AdapterTensors, GpuLlama, Lora};
use engram::train::{AdapterType, Checkpoint, Event, LrSchedule, Optimizer, TrainConfig, Trainer};
use serde_json::Value;

/// Every event until the run ends or the last of `count` iterations is done.
async fn events(trainer: &mut Trainer, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while trainer.iteration() < count
        && let Some(event) = trainer.advance().await.unwrap()
    {
        events.push(event);
    }
    events
}

fn f64s(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

#[async_test]
async fn adam_and_adamw_take_pytorchs_steps() {
    let context = context().await;
    let model = load(&context, &open_folder("tiny").await, None).await;
    let batch = Golden::open("tiny_lora_grads_last2_r4.safetensors");
    let initial = peft_adapter(&batch, "lora.", 1..3, 4, 2.5);
    let golden = Golden::open("tiny_lora_optim.safetensors");
    let about = golden_json("tiny_lora_optim.json");
    let runs = about["runs"].as_object().expect("runs");
    assert_eq!(runs.len(), 6);
    for (name, run) in runs {
        let config = TrainConfig {
            rank: 4,
            scale: 2.5,
            num_layers: 2,
            batch_size: 3,
            // One more, whose loss is that after the tenth.
            iters: 11,
            learning_rate: 3e-3,
            optimizer: if name.starts_with("adamw") { Optimizer::Adamw } else { Optimizer::Adam },
            weight_decay: run["weight_decay"].as_f64().expect("a number") as f32,
            bias_correction: run["bias_correction"].as_bool().expect("a flag"),
            max_grad_norm: run["clip_norm"].as_f64().map(|norm| norm as f32),
            steps_per_report: 1,
            ..Default::default()
        };
        let set = BatchSet::new(golden_examples(&batch), config.batch_config()).unwrap();
        let mut trainer = Trainer::new(&context, &model, &initial, set, None, &config).unwrap();
        let mut found = events(&mut trainer, 10).await;
        let after_ten = trainer.adapter_tensors().await.unwrap();
        found.extend(events(&mut trainer, 11).await);

        let (losses, norms) = (f64s(&run["losses"]), f64s(&run["grad_norms"]));
        assert_eq!(found.len(), losses.len());
        // Without the correction, first steps are large and what was rounded differently grows.
        let tolerance = if config.bias_correction { 1e-5 } else { 1e-4 };
        for (i, event) in found.iter().enumerate() {
            let Event::Reported { loss, gradient_norm, .. } = *event else {
                panic!("{name}: {event:?}")
            };
            assert_near(&format!("{name}, loss {i}"), loss, losses[i], tolerance);
            // The norm after the last step is not golden.
            if let Some(&norm) = norms.get(i) {
                let what = format!("{name}, gradient norm {i}");
                assert_near(&what, gradient_norm, norm, 10.0 * tolerance);
            }
        }
        let expected = peft_adapter(&golden, &format!("{name}."), 1..3, 4, 2.5);
        assert_adapters(name, &after_ten, &expected, tolerance);
    }
}

/// `rank_pattern` and `alpha_pattern` mean what they do in PEFT.
#[async_test]
async fn layers_of_their_own_ranks_take_pytorchs_steps() {
    let context = context().await;
    let model = load(&context, &open_folder("tiny").await, None).await;
    let batch = Golden::open("tiny_lora_grads_last2_r4.safetensors");
    let golden = golden_json("tiny_ranks.json");
    let number = |key: &str| golden[key].as_f64().expect("a number") as f32;
    let (rank, alpha) = (golden["rank"].as_u64().expect("a rank") as usize, number("lora_alpha"));
    let scale = alpha / rank as f32;
    for (name, adapter_type) in [("lora", AdapterType::Lora), ("rslora", AdapterType::Rslora)] {
        let losses = f64s(&golden["losses"][name]);
        let config = TrainConfig {
            adapter_type,
            rank,
            scale,
            rank_pattern: serde_json::from_value(golden["rank_pattern"].clone()).unwrap(),
            alpha_pattern: serde_json::from_value(golden["alpha_pattern"].clone()).unwrap(),
            num_layers: 2,
            batch_size: 3,
            iters: losses.len(),
            learning_rate: number("learning_rate"),
            steps_per_report: 1,
            ..Default::default()
        };
        let ranks = config.initial_adapter(&model.config).unwrap();
        let initial = Adapter::new(ranks.iter().map(|(layer, target, lora)| {
            let (rank, (ins, _)) = (lora.rank, target.shape(&model.config));
            let of = |half: &str, count: usize, bound: f64| {
                hash_values(&mlx_name(layer, target, half), count, bound)
            };
            let a = of("lora_a", ins * rank, 1.0 / (ins as f64).sqrt());
            let b = of("lora_b", lora.b.len(), 0.2);
            ((layer, target), Lora { a, b, ..lora.clone() })
        }));
        let set = || BatchSet::new(golden_examples(&batch), config.batch_config()).unwrap();
        let mut trainer = Trainer::new(&context, &model, &initial, set(), None, &config).unwrap();
        let mut found = events(&mut trainer, 5).await;
        // A checkpoint has the ranks too.
        let bytes = trainer.save().await.unwrap().to_bytes().unwrap();
        let checkpoint = Checkpoint::from_bytes(name, &bytes).unwrap();
        let mut again = Trainer::resume(&context, &model, set(), None, &checkpoint).unwrap();
        found.extend(events(&mut again, losses.len()).await);
        assert_eq!(found.len(), losses.len());
        for (i, event) in found.iter().enumerate() {
            let Event::Reported { loss, .. } = *event else { panic!("{name}: {event:?}") };
            assert_near(&format!("{name}, loss {i}"), loss, losses[i], 1e-5);
        }
    }
}

#[async_test]
async fn the_other_rules_take_mlxs_steps() {
    let context = context().await;
    let model = load(&context, &open_folder("tiny").await, None).await;
    let batch = Golden::open("tiny_lora_grads_last2_r4.safetensors");
    let initial = peft_adapter(&batch, "lora.", 1..3, 4, 2.5);
    let golden = golden_json("tiny_optimizers.json");
    let base = TrainConfig {
        rank: 4,
        scale: 2.5,
        num_layers: 2,
        batch_size: 3,
        iters: 11,
        learning_rate: golden["learning_rate"].as_f64().expect("a number") as f32,
        steps_per_report: 1,
        ..Default::default()
    };
    let of = |optimizer, weight_decay| TrainConfig { optimizer, weight_decay, ..base.clone() };
    let momentum = |config, momentum, nesterov| TrainConfig {
        momentum: Some(momentum),
        nesterov: Some(nesterov),
        ..config
    };
    let (relative_step, scale_parameter) = (false, false);
    let runs = [
        ("sgd", of(Optimizer::Sgd, 0.0)),
        ("sgd_momentum", momentum(of(Optimizer::Sgd, 0.1), 0.9, false)),
        ("sgd_nesterov", momentum(of(Optimizer::Sgd, 0.0), 0.9, true)),
        ("adafactor", of(Optimizer::Adafactor, 0.0)),
        (
            "adafactor_rate",
            TrainConfig { relative_step, scale_parameter, ..of(Optimizer::Adafactor, 0.1) },
        ),
        ("muon", of(Optimizer::Muon, 0.01)),
        ("muon_plain", momentum(of(Optimizer::Muon, 0.0), 0.5, false)),
    ];
    assert_eq!(runs.len(), golden["runs"].as_object().expect("runs").len());
    for (name, config) in runs {
        let losses = f64s(&golden["runs"][name]["losses"]);
        let set = || BatchSet::new(golden_examples(&batch), config.batch_config()).unwrap();
        let mut trainer = Trainer::new(&context, &model, &initial, set(), None, &config).unwrap();
        let mut found = events(&mut trainer, 6).await;
        // It goes on from a checkpoint as if it had not stopped.
        let bytes = trainer.save().await.unwrap().to_bytes().unwrap();
        let checkpoint = Checkpoint::from_bytes(name, &bytes).unwrap();
        let mut again = Trainer::resume(&context, &model, set(), None, &checkpoint).unwrap();
        found.extend(events(&mut again, 11).await);
        assert_eq!(found.len(), losses.len());
        for (i, event) in found.iter().enumerate() {
            let Event::Reported { loss, .. } = *event else { panic!("{name}: {event:?}") };
            assert_near(&format!("{name}, loss {i}"), loss, losses[i], 1e-4 * losses[i]);
        }
    }
}

#[async_test]
async fn schedules_are_mlxs() {
    let golden = golden_json("schedules.json");
    for case in golden["schedules"].as_array().expect("a list") {
        let schedule: LrSchedule = serde_json::from_value(case["schedule"].clone()).unwrap();
        schedule.check().unwrap();
        let config = TrainConfig { lr_schedule: Some(schedule), ..Default::default() };
        for (update, expected) in f64s(&case["rates"]).into_iter().enumerate() {
            let what = format!("{}, update {update}", case["schedule"]);
            // MLX computes in f32.
            assert_near(&what, config.rate(update), expected, 1e-5 * expected + 1e-9);
        }
    }
}

/// What MLX-LM trained on, as one of its runs did.
struct Mlx {
    context: Context,
    model: Rc<GpuLlama>,
    train: BatchSet,
    valid: BatchSet,
    initial: AdapterTensors,
    config: TrainConfig,
}

impl Mlx {
    async fn new(context: &Context, run: &Value) -> Self {
        let engine = engine(context, &open_folder("tiny").await).await;
        let config = TrainConfig {
            semantics: Semantics::Mlx,
            rank: 4,
            scale: 2.5,
            num_layers: 2,
            batch_size: 2,
            iters: 8,
            learning_rate: 1e-3,
            bias_correction: false,
            grad_accumulation_steps: run["grad_accumulation_steps"].as_u64().expect("a number")
                as usize,
            mask_prompt: run["mask_prompt"].as_bool().expect("a flag"),
            max_seq_length: 60,
            steps_per_report: 1,
            steps_per_eval: 4,
            val_batches: 25,
            seed: 7,
            ..Default::default()
        };
        let set = |file: &str| {
            let records = jsonl::parse(file, golden_bytes(&format!("tiny_mlx/{file}")));
            let examples = tokens::tokenize(file, &records.unwrap(), &engine, config.loss_on());
            BatchSet::new(examples.unwrap(), config.batch_config()).unwrap()
        };
        let (train, valid) = (set("train.jsonl"), set("valid.jsonl"));
        let model = engine.model().gpu().unwrap().llama.clone();
        // As MLX-LM starts, `lora_b` is zero.
        let initial = hash_adapter(&model.config, 1..3, 4, 2.5, 0.0);
        Self { context: context.clone(), model, train, valid, initial, config }
    }

    fn trainer(&self) -> Trainer {
        let (train, valid) = (self.train.clone(), Some(self.valid.clone()));
        Trainer::new(&self.context, &self.model, &self.initial, train, valid, &self.config).unwrap()
    }
}

#[async_test]
async fn mlx_lms_loop_is_repeated_loss_for_loss() {
    let report = golden_json("tiny_mlx/report.json");
    let golden = Golden::open("tiny_mlx/run.safetensors");
    let runs = report["runs"].as_object().expect("runs");
    assert_eq!(runs.len(), 3);
    let context = context().await;
    for (name, run) in runs {
        let mlx = Mlx::new(&context, run).await;
        let mut trainer = mlx.trainer();
        let number = |table: &str, iteration: usize| {
            run[table][iteration.to_string()].as_f64().expect("an iteration of the golden run")
        };
        let (mut validations, mut reports) = (Vec::new(), Vec::new());
        for event in events(&mut trainer, 8).await {
            match event {
                Event::Validated { iteration, loss, .. } => {
                    let what = format!("{name}, validation before {iteration}");
                    assert_near(&what, loss, number("val_loss", iteration), 2e-5);
                    validations.push(iteration);
                }
                Event::Reported { iteration, loss, trained_tokens, .. } => {
                    let what = format!("{name}, iteration {iteration}");
                    assert_near(&what, loss, number("train_loss", iteration), 2e-5);
                    let trained = number("trained_tokens", iteration);
                    assert_eq!(trained_tokens as f64, trained, "{what}");
                    reports.push(iteration);
                }
                Event::Stepped { .. } => panic!("{name}: {event:?}"),
            }
        }
        assert_eq!(validations, [1, 4, 8], "{name}");
        assert_eq!(reports, [1, 2, 3, 4, 5, 6, 7, 8], "{name}");
        let found = trainer.adapter_tensors().await.unwrap();
        for (layer, target, lora) in found.iter() {
            for (half, values) in [("lora_a", &lora.a), ("lora_b", &lora.b)] {
                let key = mlx_name(layer, target, half);
                let error = relative_error(values, &golden.f32(&format!("{name}.final.{key}")));
                assert!(error <= 1e-4, "{name}: {key} is off by {error:e}");
            }
        }
    }
}

#[async_test]
async fn a_resumed_run_gives_the_same_bits() {
    let report = golden_json("tiny_mlx/report.json");
    let context = context().await;
    for semantics in [Semantics::Mlx, Semantics::Engram] {
        let mut mlx = Mlx::new(&context, &report["runs"]["accumulate"]).await;
        mlx.config.semantics = semantics;
        let batches = mlx.config.batch_config();
        for set in [&mut mlx.train, &mut mlx.valid] {
            *set = BatchSet::new(set.examples().to_vec(), batches.clone()).unwrap();
        }
        let mut whole = mlx.trainer();
        let expected = events(&mut whole, 8).await;
        let expected_adapter = whole.adapter_tensors().await.unwrap();

        // Between the two batches of an update.
        let mut stopped = mlx.trainer();
        let mut found = events(&mut stopped, 3).await;
        let bytes = stopped.save().await.unwrap().to_bytes().unwrap();
        drop(stopped);
        let saved = Checkpoint::from_bytes("run.safetensors", &bytes).unwrap();
        let (train, valid) = (mlx.train.clone(), Some(mlx.valid.clone()));
        let mut resumed = Trainer::resume(&mlx.context, &mlx.model, train, valid, &saved).unwrap();
        found.extend(events(&mut resumed, 8).await);
        // Tokens are counted from the start of each run.
        assert_eq!(
            found.iter().map(outcome).collect::<Vec<_>>(),
            expected.iter().map(outcome).collect::<Vec<_>>()
        );
        assert_eq!(resumed.adapter_tensors().await.unwrap(), expected_adapter);
    }
}

/// Many short examples fill one sequence of rows, as packing has it, and none sees another.
#[async_test]
async fn a_packed_batch_is_its_examples_one_by_one() {
    let context = context().await;
    let report = golden_json("tiny_mlx/report.json");
    let mut mlx = Mlx::new(&context, &report["runs"]["accumulate"]).await;
    mlx.initial = hash_adapter(&mlx.model.config, 1..3, 4, 2.5, 0.2);
    let mut examples = mlx.train.examples().to_vec();
    // With turns in between that carry no loss.
    let masked = 3..examples[1].ids.len() - 2;
    examples[1].masked.extend([masked]);
    let count = examples.len();
    let mut found = Vec::new();
    for batch_size in [count, 1] {
        let iters = count / batch_size;
        mlx.config = TrainConfig {
            semantics: Semantics::Engram,
            batch_size,
            iters,
            grad_accumulation_steps: iters,
            steps_per_report: iters,
            steps_per_eval: iters,
            val_batches: -1,
            ..mlx.config
        };
        for set in [&mut mlx.train, &mut mlx.valid] {
            *set = BatchSet::new(examples.clone(), mlx.config.batch_config()).unwrap();
        }
        let mut trainer = mlx.trainer();
        let events = events(&mut trainer, iters).await;
        let (first, last) = (outcome(&events[0]), outcome(events.last().unwrap()));
        found.push(([first.1, last.1, last.2], trainer.gradients().await.unwrap()));
    }
    let [(packed, gradients), (alone, gradients_alone)] = &found[..] else { panic!() };
    for (what, (found, expected)) in
        ["validation loss", "training loss", "gradient norm"].iter().zip(packed.iter().zip(alone))
    {
        assert_near(what, *found, f64::from(*expected), 1e-5 * f64::from(expected.abs()));
    }
    assert_adapters("gradients", gradients, gradients_alone, 1e-4);
}

#[async_test]
async fn a_step_submits_once_and_makes_nothing_on_the_device() {
    let context = context().await;
    let report = golden_json("tiny_mlx/report.json");
    let mut mlx = Mlx::new(&context, &report["runs"]["accumulate"]).await;
    mlx.config = TrainConfig { iters: 12, steps_per_report: 4, val_batches: 0, ..mlx.config };
    let mut trainer = mlx.trainer();
    trainer.advance().await.unwrap();
    let made = || (context.memory().allocations(), context.bind_groups());
    let (before, submits) = (made(), context.submits());
    let reports = events(&mut trainer, 12).await;
    let reports = reports.iter().filter(|event| matches!(event, Event::Reported { .. })).count();
    assert_eq!(reports, 3);
    assert_eq!(context.submits(), submits + 11 + 3, "one a step and one to read a report");
    assert_eq!(made(), before);
}

/// An event's iteration and its losses.
fn outcome(event: &Event) -> (usize, f32, f32) {
    match *event {
        Event::Validated { iteration, loss, best } => (iteration, loss, f32::from(best)),
        Event::Reported { iteration, loss, gradient_norm, .. } => (iteration, loss, gradient_norm),
        Event::Stepped { iteration, .. } => (iteration, 0.0, 0.0),
    }
}
