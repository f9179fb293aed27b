//! Choosing a token from logits, on the CPU.

use crate::data::random::SplitMix64;
use crate::{Error, Result};

/// How the next token is chosen, with the names and the order of Hugging Face's `GenerationConfig`:
/// repetition penalty, temperature, top-k, top-p, min-p.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Keeps that many of the most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest tokens whose probabilities add up to this; 1 keeps all.
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
    /// Whether it is the plain most likely token, which the GPU picks by itself.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0 && self.repeat_penalty == 1.0
    }

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
}

/// Draws tokens.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    random: SplitMix64,
}

impl Sampler {
    /// # Errors
    /// As [`Sampling::check`].
    pub fn new(sampling: &Sampling) -> Result<Self> {
        sampling.check()?;
        Ok(Self { random: SplitMix64::new(sampling.seed), sampling: sampling.clone() })
    }

    /// Chooses the token after `context`.
    ///
    /// # Errors
    /// [`Error::Gpu`] if no logit is a number.
    pub fn sample(&mut self, mut logits: Vec<f32>, context: &[u32]) -> Result<u32> {
        penalise(&mut logits, context, self.sampling.repeat_penalty);
        let mut candidates: Vec<(u32, f32)> =
            (0..).zip(logits).filter(|(_, logit)| !logit.is_nan()).collect();
        // Most likely first; of equals the lower id.
        let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if self.sampling.temperature == 0.0 {
            let best = candidates.into_iter().min_by(order);
            return best.map(|(id, _)| id).ok_or_else(no_numbers);
        }
        let top_k = self.sampling.top_k;
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k - 1, order);
            candidates.truncate(top_k);
        }
        candidates.sort_unstable_by(order);
        let Some(&(_, highest)) = candidates.first() else { return Err(no_numbers()) };
        let weight = |logit: f32| f64::from((logit - highest) / self.sampling.temperature).exp();
        let mut weights: Vec<f64> = candidates.iter().map(|&(_, logit)| weight(logit)).collect();
        keep_top_p(&mut weights, f64::from(self.sampling.top_p));
        weights.retain(|&w| w >= f64::from(self.sampling.min_p));

        let total: f64 = weights.iter().sum();
        let mut left = self.random.next_f64() * total;
        let drawn = weights.iter().position(|w| {
            left -= w;
            left < 0.0
        });
        // Rounding may leave a crumb beyond the last weight.
        Ok(candidates[drawn.unwrap_or(weights.len() - 1)].0)
    }
}

fn no_numbers() -> Error {
    Error::Gpu("every logit is NaN; run `engram doctor` to check the adapter".into())
}

/// Keskar et al., 2019 (CTRL): each token of the context once.
fn penalise(logits: &mut [f32], context: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    let mut seen = vec![false; logits.len()];
    for &id in context {
        let Some(seen) = seen.get_mut(id as usize) else { continue };
        if !std::mem::replace(seen, true) {
            let logit = &mut logits[id as usize];
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
}

/// Holtzman et al., 2020: the shortest prefix of sorted weights with at least `top_p` of their sum.
fn keep_top_p(weights: &mut Vec<f64>, top_p: f64) {
    let wanted = top_p * weights.iter().sum::<f64>();
    let mut sum = 0.0;
    let enough = weights.iter().position(|w| {
        sum += w;
        sum >= wanted
    });
    if let (Some(last), true) = (enough, top_p < 1.0) {
        weights.truncate(last + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    fn draws(sampling: Sampling, logits: &[f32], context: &[u32]) -> Vec<u32> {
        let mut sampler = Sampler::new(&sampling).unwrap();
        (0..2000).map(|_| sampler.sample(logits.to_vec(), context).unwrap()).collect()
    }

    fn share(draws: &[u32], id: u32) -> f64 {
        draws.iter().filter(|&&d| d == id).count() as f64 / draws.len() as f64
    }

    #[test]
    fn greedy_takes_the_first_of_the_best() {
        assert!(draws(Sampling::default(), &[0.0, 2.0, 2.0], &[]).iter().all(|&d| d == 1));
        assert!(draws(Sampling::default(), &[f32::NAN, -1.0], &[]).iter().all(|&d| d == 1));
        let all_nan = Sampler::new(&Sampling::default()).unwrap().sample(vec![f32::NAN], &[]);
        assert!(all_nan.is_err());
    }

    #[test]
    fn draws_follow_the_softmax() {
        let sampling = Sampling { temperature: 0.5, ..Default::default() };
        let draws = draws(sampling, &[0.0, 0.5], &[]);
        let expected = 1f64.exp() / (1.0 + 1f64.exp());
        assert!((share(&draws, 1) - expected).abs() < 0.04, "{}", share(&draws, 1));
    }

    #[test]
    fn each_filter_cuts_where_it_should() {
        let logits = [3.0f32.ln(), 2.0f32.ln(), 1.0f32.ln(), 0.0];
        let warm = Sampling { temperature: 1.0, ..Default::default() };
        let kept = |sampling: Sampling| {
            let mut ids = draws(sampling, &logits, &[]);
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        assert_eq!(kept(warm.clone()), [0, 1, 2, 3]);
        assert_eq!(kept(Sampling { top_k: 2, ..warm.clone() }), [0, 1]);
        assert_eq!(kept(Sampling { top_p: 0.6, ..warm.clone() }), [0, 1]);
        assert_eq!(kept(Sampling { min_p: 0.5, ..warm.clone() }), [0, 1]);
        assert_eq!(kept(Sampling { top_p: 0.01, ..warm }), [0]);
    }

    #[test]
    fn the_penalty_counts_a_token_once() {
        let sampling = Sampling { repeat_penalty: 2.0, ..Default::default() };
        let mut sampler = Sampler::new(&sampling).unwrap();
        assert_eq!(sampler.sample(vec![3.0, 2.0], &[0, 0, 0, 9]).unwrap(), 1);
        assert_eq!(sampler.sample(vec![3.0, 1.4], &[0, 0, 0]).unwrap(), 0);
        assert_eq!(sampler.sample(vec![-1.0, -1.5], &[0]).unwrap(), 1);
    }

    #[test]
    fn a_seed_repeats_and_bad_settings_are_named() {
        let warm = Sampling { temperature: 1.0, seed: 7, ..Default::default() };
        assert_eq!(draws(warm.clone(), &[0.0; 9], &[]), draws(warm.clone(), &[0.0; 9], &[]));
        for bad in [
            Sampling { temperature: f32::NAN, ..Default::default() },
            Sampling { top_p: 0.0, ..Default::default() },
            Sampling { min_p: 1.5, ..Default::default() },
            Sampling { repeat_penalty: 0.0, ..Default::default() },
        ] {
            assert!(Sampler::new(&bad).is_err(), "{bad:?}");
        }
    }
}
