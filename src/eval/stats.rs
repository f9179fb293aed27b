//! What the counts and the seconds can carry: intervals, tests, summaries.
//!
//! Only sums, products, quotients and square roots are used here: those are exact to the last bit
//! on every target, which `exp` and `ln` are not.

use serde::{Deserialize, Serialize};

/// The 97.5 % quantile of the standard normal distribution.
const Z_95: f64 = 1.959963984540054;

/// A closed interval of proportions, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// The 95 % score interval of a proportion (Wilson 1927, without continuity correction).
///
/// `0` of `0` gives the whole of [0, 1]. `successes` above `n` counts as `n`.
pub fn wilson(successes: usize, n: usize) -> Interval {
    if n == 0 {
        return Interval { low: 0.0, high: 1.0 };
    }
    let successes = successes.min(n);
    let (count, p) = (n as f64, successes as f64 / n as f64);
    let z2 = Z_95 * Z_95;
    let scale = 1.0 + z2 / count;
    let centre = (p + z2 / (2.0 * count)) / scale;
    let half = Z_95 / scale * (p * (1.0 - p) / count + z2 / (4.0 * count * count)).max(0.0).sqrt();
    // At the two ends the formula gives 0 and 1 only up to rounding.
    Interval {
        low: if successes == 0 { 0.0 } else { (centre - half).max(0.0) },
        high: if successes == n { 1.0 } else { (centre + half).min(1.0) },
    }
}

/// The two-sided p-value of McNemar's exact test: how likely it is that two equally good
/// candidates disagree at least this unevenly.
///
/// Takes the examples that only the first and that only the second got right, and sums
/// `2 · P(X ≤ min)` for `X ~ Binomial(only_first + only_second, ½)`, at most 1.
pub fn mcnemar_exact(only_first: usize, only_second: usize) -> f64 {
    const BIG: f64 = (1u128 << 100) as f64;
    let n = only_first.saturating_add(only_second);
    let fewer = only_first.min(only_second);
    // sum = Σ C(n, k) for k ≤ fewer, kept in range by powers of two that come off at the end.
    let (mut term, mut sum, mut halvings) = (1.0_f64, 1.0_f64, n);
    for k in 1..=fewer {
        term *= (n - k + 1) as f64 / k as f64;
        sum += term;
        if sum > BIG {
            term /= BIG;
            sum /= BIG;
            halvings = halvings.saturating_sub(100);
        }
    }
    let mut p = 2.0 * sum;
    while halvings > 0 && p > 0.0 {
        p *= 0.5;
        halvings -= 1;
    }
    p.min(1.0)
}

/// How long completions took. Depends on the machine; everything else in a report does not.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Completions measured, repeated runs included.
    pub n: usize,
    /// Arithmetic mean, milliseconds.
    pub mean_ms: f64,
    /// Median, milliseconds; the mean of the two middle values if `n` is even.
    pub median_ms: f64,
    /// Sample standard deviation (`n − 1` in the denominator), milliseconds; 0 if `n` is 1.
    pub std_ms: f64,
    /// Shortest, milliseconds.
    pub min_ms: f64,
    /// Longest, milliseconds.
    pub max_ms: f64,
    /// Generated tokens over the sum of the seconds; none if the clock did not move.
    pub tokens_per_second: Option<f64>,
}

impl Latency {
    /// Summarises `seconds` as Python's `statistics` does, and the `tokens` generated in them.
    /// None if there are none, or if one is negative or not finite.
    pub fn of(seconds: &[f64], tokens: usize) -> Option<Self> {
        if seconds.is_empty() || seconds.iter().any(|s| !s.is_finite() || *s < 0.0) {
            return None;
        }
        let mut ms: Vec<f64> = seconds.iter().map(|s| s * 1000.0).collect();
        ms.sort_by(f64::total_cmp);
        let (n, count) = (ms.len(), ms.len() as f64);
        let mean = ms.iter().sum::<f64>() / count;
        let middle = n / 2;
        let median = if n % 2 == 1 { ms[middle] } else { (ms[middle - 1] + ms[middle]) / 2.0 };
        let squares: f64 = ms.iter().map(|x| (x - mean) * (x - mean)).sum();
        let std = if n == 1 { 0.0 } else { (squares / (count - 1.0)).sqrt() };
        let total: f64 = seconds.iter().sum();
        Some(Latency {
            n,
            mean_ms: mean,
            median_ms: median,
            std_ms: std,
            min_ms: ms[0],
            max_ms: ms[n - 1],
            tokens_per_second: (total > 0.0).then(|| tokens as f64 / total),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::test;

    fn assert_near(actual: f64, expected: f64) {
        let error = (actual - expected).abs();
        assert!(error <= 1e-15 + 1e-11 * expected.abs(), "{actual} is not {expected}");
    }

    /// `proportion_confint(k, n, method="wilson")` of statsmodels 0.15.0.
    #[test]
    fn wilson_gives_statsmodels_figures() {
        for (k, n, low, high) in [
            (0, 10, 0.0, 0.27753279986288926),
            (10, 10, 0.7224672001371106, 1.0),
            (9, 104, 0.04619594856384808, 0.15633709447491023),
            (12, 104, 0.06724977629813572, 0.19092049629605806),
            (1, 3, 0.06149194472039626, 0.7923403991979523),
            (50, 100, 0.4038315303659956, 0.5961684696340044),
            (1, 1, 0.2065493143772374, 1.0),
            (4999, 10000, 0.4901021004111254, 0.5096979763885487),
        ] {
            let interval = wilson(k, n);
            assert_near(interval.low, low);
            assert_near(interval.high, high);
        }
        assert_eq!(wilson(0, 0), Interval { low: 0.0, high: 1.0 });
    }

    /// `binomtest(min(b, c), b + c, 0.5).pvalue` of SciPy 1.17.1.
    #[test]
    fn mcnemar_gives_scipys_figures() {
        for (b, c, p) in [
            (0, 0, 1.0),
            (1, 0, 1.0),
            (3, 6, 0.5078125),
            (4, 7, 0.548828125),
            (0, 5, 0.0625),
            (0, 6, 0.03125),
            (10, 25, 0.016673847800120715),
            (3, 19, 0.0008554458618164062),
            (100, 140, 0.01166409231767769),
            (2000, 2100, 0.12206497999113655),
            (0, 2000, 0.0),
        ] {
            assert_near(mcnemar_exact(b, c), p);
        }
    }

    /// Python's `statistics.mean`, `median` and `stdev` of the same numbers.
    #[test]
    fn latency_gives_pythons_figures() {
        let seconds = [0.2526, 0.2624, 0.2401, 0.3007, 0.2510];
        let odd = Latency::of(&seconds, 250).unwrap();
        assert_near(odd.mean_ms, 261.36);
        assert_near(odd.median_ms, 252.6);
        assert_near(odd.std_ms, 23.37077234496113);
        assert_near(odd.min_ms, 240.1);
        assert_near(odd.max_ms, 300.7);
        assert_near(odd.tokens_per_second.unwrap(), 250.0 / 1.3068);
        let even = Latency::of(&seconds[..4], 0).unwrap();
        assert_near(even.median_ms, 257.5);
        assert_near(even.std_ms, 26.144534164269718);
    }

    #[test]
    fn latency_of_odd_input() {
        assert_eq!(Latency::of(&[], 0), None);
        assert_eq!(Latency::of(&[1.0, f64::NAN], 0), None);
        assert_eq!(Latency::of(&[-1.0], 0), None);
        let still = Latency::of(&[0.0], 5).unwrap();
        assert_eq!((still.std_ms, still.tokens_per_second), (0.0, None));
    }

    proptest! {
        #[test]
        fn wilson_lies_in_unit_and_holds_the_proportion(n in 1usize..100_000, part in 0.0..=1.0) {
            let k = (n as f64 * part) as usize;
            let (p, interval) = (k as f64 / n as f64, wilson(k, n));
            prop_assert!(0.0 <= interval.low && interval.high <= 1.0);
            prop_assert!(interval.low <= p && p <= interval.high);
        }

        #[test]
        fn mcnemar_is_symmetric_and_a_probability(b in 0usize..3000, c in 0usize..3000) {
            let p = mcnemar_exact(b, c);
            prop_assert!((0.0..=1.0).contains(&p));
            prop_assert_eq!(p, mcnemar_exact(c, b));
        }

        #[test]
        fn mcnemar_falls_as_the_split_grows_uneven(b in 0usize..500, c in 0usize..500) {
            let (fewer, more) = (b.min(c), b.max(c));
            prop_assume!(fewer > 0);
            prop_assert!(mcnemar_exact(fewer - 1, more + 1) <= mcnemar_exact(fewer, more));
        }
    }
}
