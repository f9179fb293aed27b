//! How the learning rate changes in a run, by the names and rules of `mlx.optimizers.schedulers` and of
//! MLX-LM's `lr_schedule`.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The schedules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleName {
    /// The learning rate as it is: with a warm-up in front.
    Constant,
    /// From one rate to another: `[init, end, steps]`.
    LinearSchedule,
    /// Half a cosine from one rate to another: `[init, decay_steps, end]`, the last 0 if left out.
    CosineDecay,
    /// Times a factor each update: `[init, decay_rate]`.
    ExponentialDecay,
    /// Times a factor every so many updates: `[init, decay_rate, step_size]`.
    StepDecay,
}

impl ScheduleName {
    /// Every schedule.
    pub const ALL: [ScheduleName; 5] = [
        ScheduleName::Constant,
        ScheduleName::LinearSchedule,
        ScheduleName::CosineDecay,
        ScheduleName::ExponentialDecay,
        ScheduleName::StepDecay,
    ];

    /// As a config file has it.
    pub fn name(self) -> &'static str {
        match self {
            ScheduleName::Constant => "constant",
            ScheduleName::LinearSchedule => "linear_schedule",
            ScheduleName::CosineDecay => "cosine_decay",
            ScheduleName::ExponentialDecay => "exponential_decay",
            ScheduleName::StepDecay => "step_decay",
        }
    }
}

/// A schedule, with a warm-up in front of it or none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LrSchedule {
    /// Which one.
    pub name: ScheduleName,
    /// What it is called with; nothing: from the learning rate to 0 over the whole run.
    #[serde(default)]
    pub arguments: Vec<f64>,
    /// Updates of the warm-up, in which the rate rises to the schedule's first.
    #[serde(default)]
    pub warmup: usize,
    /// The rate of the warm-up's first update.
    #[serde(default)]
    pub warmup_init: f64,
}

/// A run, as far as a schedule needs to know it.
#[derive(Debug, Clone, Copy)]
pub struct Course {
    /// The setting.
    pub learning_rate: f64,
    /// Updates of the whole run.
    pub updates: usize,
}

impl LrSchedule {
    /// # Errors
    /// [`Error::Invalid`]: arguments that are too few, too many or make no schedule.
    pub fn check(&self) -> Result<()> {
        let name = self.name.name();
        let wrong = |problem: &str| Err(Error::invalid(format!("lr-schedule {name}: {problem}")));
        let (least, most) = match self.name {
            ScheduleName::Constant => (0, 1),
            ScheduleName::LinearSchedule | ScheduleName::StepDecay => (3, 3),
            ScheduleName::CosineDecay => (2, 3),
            ScheduleName::ExponentialDecay => (2, 2),
        };
        let count = self.arguments.len();
        let has_default =
            !matches!(self.name, ScheduleName::ExponentialDecay | ScheduleName::StepDecay);
        if count > most || count < least && !(count == 0 && has_default) {
            let expected = match self.name {
                ScheduleName::Constant => "[init]",
                ScheduleName::LinearSchedule => "[init, end, steps]",
                ScheduleName::CosineDecay => "[init, decay_steps, end]",
                ScheduleName::ExponentialDecay => "[init, decay_rate]",
                ScheduleName::StepDecay => "[init, decay_rate, step_size]",
            };
            return wrong(&format!("{count} arguments; it takes {expected}"));
        }
        let numbers = self.arguments.iter().chain([&self.warmup_init]);
        if numbers.into_iter().any(|value| !value.is_finite() || *value < 0.0) {
            return wrong("an argument is no number from 0 up");
        }
        let steps = match self.name {
            ScheduleName::LinearSchedule | ScheduleName::StepDecay => self.arguments.get(2),
            ScheduleName::CosineDecay => self.arguments.get(1),
            _ => None,
        };
        match steps {
            Some(steps) if *steps < 1.0 => wrong("its steps are less than 1"),
            _ => Ok(()),
        }
    }

    /// The learning rate of an update, counted from 0.
    pub fn rate(&self, update: usize, course: Course) -> f64 {
        // As MLX-LM joins them: the schedule begins one update after the warm-up has come to its end.
        let after = self.warmup + 1;
        let first = self.arguments.first().copied().unwrap_or(course.learning_rate);
        match self.warmup {
            0 => self.after_warmup(update, first, course.updates),
            warmup if update < after => {
                linear(self.warmup_init, first, warmup as f64, update as f64)
            }
            _ => self.after_warmup(update - after, first, course.updates.saturating_sub(after)),
        }
    }

    fn after_warmup(&self, update: usize, first: f64, updates: usize) -> f64 {
        let (update, all) = (update as f64, updates.max(1) as f64);
        let argument = |i: usize, default| self.arguments.get(i).copied().unwrap_or(default);
        match self.name {
            ScheduleName::Constant => first,
            ScheduleName::LinearSchedule => {
                linear(first, argument(1, 0.0), argument(2, all), update)
            }
            ScheduleName::CosineDecay => {
                let (steps, end) = (argument(1, all), argument(2, 0.0));
                let decay = 0.5 * (1.0 + (PI / steps * update.min(steps)).cos());
                end + decay * (first - end)
            }
            ScheduleName::ExponentialDecay => first * argument(1, 1.0).powf(update),
            ScheduleName::StepDecay => {
                first * argument(1, 1.0).powf((update / argument(2, 1.0)).floor())
            }
        }
    }
}

fn linear(init: f64, end: f64, steps: f64, update: f64) -> f64 {
    init + update.min(steps) * ((end - init) / steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    const COURSE: Course = Course { learning_rate: 0.1, updates: 20 };

    fn schedule(name: ScheduleName, arguments: &[f64], warmup: usize) -> LrSchedule {
        LrSchedule { name, arguments: arguments.to_vec(), warmup, warmup_init: 0.0 }
    }

    #[test]
    fn without_arguments_a_schedule_spans_the_run() {
        for name in [ScheduleName::LinearSchedule, ScheduleName::CosineDecay] {
            let schedule = schedule(name, &[], 4);
            schedule.check().unwrap();
            let rate = |update| schedule.rate(update, COURSE);
            assert_eq!((rate(0), rate(4), rate(5)), (0.0, 0.1, 0.1));
            assert!(rate(6) < 0.1 && rate(19) > 0.0 && rate(20) == 0.0, "{}", rate(20));
        }
        let constant = schedule(ScheduleName::Constant, &[], 0);
        assert_eq!(constant.rate(7, COURSE), 0.1);
    }

    #[test]
    fn arguments_that_make_no_schedule_are_refused() {
        for (name, arguments) in [
            (ScheduleName::Constant, &[0.1, 0.2][..]),
            (ScheduleName::CosineDecay, &[0.1]),
            (ScheduleName::CosineDecay, &[0.1, 0.0]),
            (ScheduleName::LinearSchedule, &[0.1, f64::NAN, 3.0]),
            (ScheduleName::ExponentialDecay, &[]),
            (ScheduleName::StepDecay, &[0.1, -1.0, 3.0]),
        ] {
            let error = schedule(name, arguments, 0).check().unwrap_err().to_string();
            assert!(error.starts_with(&format!("lr-schedule {}: ", name.name())), "{error}");
        }
    }
}
