//! How the next token is chosen.

use crate::kernels::sample::{self, SampleParams};
use crate::{Error, Result};

/// How the next token is chosen, with the names and the order of Hugging Face's `GenerationConfig`:
/// repetition penalty, temperature, top-k, top-p, min-p.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Keeps that many of the most likely tokens, and those as likely as the last of them; 0 keeps
    /// all.
    pub top_k: usize,
    /// Keeps the fewest tokens whose probabilities add up to this, and those as likely as the last
    /// of them; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this times as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divides (if positive, else multiplies) the logits of tokens in the context; 1 is none.
    pub repeat_penalty: f32,
    /// The same seed gives the same tokens.
    pub seed: u64,
}

impl Default for Sampling {
    /// Greedy.
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repeat_penalty: 1.0, seed: 0 }
    }
}

impl Sampling {
    /// # Errors
    /// [`Error::Invalid`] naming the first setting out of its range.
    pub fn check(&self) -> Result<()> {
        let range = |name: &str, value: f32, fine: bool, wanted: &str| {
            if fine { Ok(()) } else { Err(Error::invalid(format!("{name} {value}: {wanted}"))) }
        };
        let t = self.temperature;
        range("temperature", t, t.is_finite() && t >= 0.0, "a finite number from 0 up")?;
        let p = self.top_p;
        range("top-p", p, p > 0.0 && p <= 1.0, "above 0 and at most 1")?;
        range("min-p", self.min_p, (0.0..=1.0).contains(&self.min_p), "from 0 to 1")?;
        let r = self.repeat_penalty;
        range("repeat-penalty", r, r.is_finite() && r > 0.0, "a finite number above 0")
    }

    /// For the kernel.
    pub(super) fn params(&self) -> SampleParams {
        SampleParams {
            temperature: self.temperature,
            top_k: u32::try_from(self.top_k).unwrap_or(u32::MAX),
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            pad: 0,
            seed: [self.seed as u32, (self.seed >> 32) as u32],
        }
    }

    /// The token after `context`, on the CPU.
    ///
    /// # Errors
    /// As [`check_pick`].
    #[cfg_attr(not(feature = "burn"), expect(dead_code, reason = "burn has no kernel for it"))]
    pub(super) fn choose(&self, logits: &[f32], context: &[u32]) -> Result<u32> {
        let position = context.len() as u32;
        check_pick(sample::reference(logits, &self.params(), context, position))
    }
}

/// A choice, unless there was none.
///
/// # Errors
/// [`Error::Gpu`] if no logit was a number.
pub(super) fn check_pick(id: u32) -> Result<u32> {
    match id {
        u32::MAX => {
            Err(Error::Gpu("every logit is NaN; run `engram doctor` to check the adapter".into()))
        }
        id => Ok(id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn bad_settings_are_named() {
        for (bad, name) in [
            (Sampling { temperature: f32::NAN, ..Default::default() }, "temperature"),
            (Sampling { top_p: 0.0, ..Default::default() }, "top-p"),
            (Sampling { min_p: 1.5, ..Default::default() }, "min-p"),
            (Sampling { repeat_penalty: 0.0, ..Default::default() }, "repeat-penalty"),
        ] {
            let error = bad.check().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        assert!(Sampling { top_k: usize::MAX, ..Default::default() }.check().is_ok());
    }

    #[test]
    fn without_a_number_nothing_is_chosen() {
        let error = check_pick(u32::MAX).unwrap_err().to_string();
        assert!(error.contains("NaN"), "{error}");
        assert_eq!(check_pick(3).unwrap(), 3);
    }
}
