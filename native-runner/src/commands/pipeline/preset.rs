//! How much of the experiment is run.

use engram::generate::Place;

/// The sizes of one run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preset {
    /// Training iterations.
    pub iters: usize,
    /// Step size; ten times the experiment's shows something in few iterations.
    pub learning_rate: f32,
    /// Iterations between reports of the training loss.
    pub steps_per_report: usize,
    /// Iterations between validations.
    pub steps_per_eval: usize,
    /// Batches of a validation; −1 is all.
    pub val_batches: i64,
    /// Most examples of each test set.
    pub examples: Option<usize>,
    /// Longest answer, tokens.
    pub max_new_tokens: usize,
    /// Prompts of the demonstration.
    pub demo_prompts: usize,
}

/// The original experiment.
pub const FULL: Preset = Preset {
    iters: 100,
    learning_rate: 1e-5,
    steps_per_report: 10,
    steps_per_eval: 50,
    val_batches: -1,
    examples: None,
    max_new_tokens: 50,
    demo_prompts: 5,
};

/// Within 6 minutes on a software adapter with 2 cores, where a training step of 4 short chats takes
/// some 5 s and 10 tokens of an answer 1 s.
pub const QUICK: Preset = Preset {
    iters: 16,
    learning_rate: 1e-4,
    steps_per_report: 2,
    steps_per_eval: 16,
    val_batches: 2,
    examples: Some(12),
    max_new_tokens: 16,
    demo_prompts: 3,
};

impl Preset {
    /// The quick one if it is asked for, or by our kernels on a software adapter unless the full one
    /// is: burn on the CPU does it all in minutes.
    pub fn choose(quick: bool, full: bool, place: &Place) -> Self {
        let is_slow = place.is_software && place.engine == "wgpu";
        if quick || (is_slow && !full) { QUICK } else { FULL }
    }

    /// What it comes to, in words.
    pub fn describe(&self) -> String {
        let Self { iters, learning_rate, examples, max_new_tokens, .. } = self;
        let examples = examples.map_or("all".to_owned(), |examples| examples.to_string());
        format!(
            "{iters} iterations at a learning rate of {learning_rate:e}, {examples} examples a test \
             set, {max_new_tokens} tokens an answer"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_software_adapter_gets_the_quick_one_unless_told_otherwise() {
        let place = |engine, is_software| Place { engine, device: "x".into(), is_software };
        assert_eq!(Preset::choose(false, false, &place("wgpu", false)), FULL);
        assert_eq!(Preset::choose(false, false, &place("wgpu", true)), QUICK);
        assert_eq!(Preset::choose(false, false, &place("burn", true)), FULL);
        assert_eq!(Preset::choose(false, true, &place("wgpu", true)), FULL);
        assert_eq!(Preset::choose(true, false, &place("wgpu", false)), QUICK);
    }
}
