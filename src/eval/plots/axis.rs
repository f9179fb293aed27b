//! An axis with round ticks.

/// Maps values to pixels, with ticks at round values.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    low: f64,
    high: f64,
    step: f64,
    decimals: usize,
    start: f64,
    end: f64,
}

/// Ticks aimed for.
const TICKS: f64 = 5.0;

impl Axis {
    /// An axis that holds the finite ones of `values`, widened to round ends, whose lower end
    /// stands at pixel `start` and whose upper end at `end`. `whole` asks for whole ticks.
    pub fn over(values: impl Iterator<Item = f64>, whole: bool, start: f64, end: f64) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        // What lies beyond can't be told apart in steps a double can count.
        for value in values.filter(|value| value.abs() < 1e15) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        let least = if whole { TICKS } else { 1e-9 + 1e-9 * high.abs().max(low.abs()) };
        let raw = (high - low).max(least) / TICKS;
        let (mut decade, mut decimals) = (1.0, 0_usize);
        while decade > raw {
            decade /= 10.0;
            decimals += 1;
        }
        while decade * 10.0 <= raw {
            decade *= 10.0;
        }
        let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| decade * factor >= raw);
        let step = decade * factor.unwrap_or(10.0);
        if factor.is_none() {
            decimals = decimals.saturating_sub(1);
        }
        let low = (low / step).floor() * step;
        let mut high = (high / step).ceil() * step;
        if high <= low {
            high = low + step;
        }
        Axis { low, high, step, decimals, start, end }
    }

    /// Where `value` stands, pixels.
    pub fn at(&self, value: f64) -> f64 {
        let share = (value - self.low) / (self.high - self.low);
        self.start + share.clamp(0.0, 1.0) * (self.end - self.start)
    }

    /// Every tick: its pixel and its text, with a true minus sign.
    pub fn ticks(&self) -> Vec<(f64, String)> {
        let count = ((self.high - self.low) / self.step).round() as usize;
        (0..=count)
            .map(|i| {
                let value = self.low + i as f64 * self.step;
                // Rounding may leave a hair beside zero, which would print as -0.
                let value = if value.abs() < self.step / 2.0 { 0.0 } else { value };
                (self.at(value), format!("{value:.*}", self.decimals).replace('-', "\u{2212}"))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::test;

    fn texts(values: &[f64], whole: bool) -> Vec<String> {
        let axis = Axis::over(values.iter().copied(), whole, 0.0, 100.0);
        axis.ticks().into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(texts(&[0.0, 19.1], false), ["0", "5", "10", "15", "20"]);
        assert_eq!(texts(&[1.74, 4.34], false), ["1", "2", "3", "4", "5"]);
        assert_eq!(texts(&[-0.21, 0.4], false), ["−0.4", "−0.2", "0.0", "0.2", "0.4"]);
        assert_eq!(texts(&[1.0, 3.0], true), ["1", "2", "3"]);
        assert_eq!(texts(&[0.0, 0.05], false).last().unwrap(), "0.05");
        assert_eq!(texts(&[], false).first().unwrap(), "0.0");
        assert_eq!(texts(&[f64::NAN, f64::INFINITY], true), ["0", "1"]);
    }

    #[test]
    fn values_stand_in_proportion() {
        let axis = Axis::over([0.0, 20.0].into_iter(), false, 10.0, 110.0);
        assert_eq!((axis.at(0.0), axis.at(5.0), axis.at(20.0)), (10.0, 35.0, 110.0));
    }

    proptest! {
        #[test]
        fn any_values_make_a_readable_axis(a in any::<f64>(), b in any::<f64>(), whole: bool) {
            let axis = Axis::over([a, b].into_iter(), whole, 0.0, 100.0);
            let ticks = axis.ticks();
            prop_assert!((2..=9).contains(&ticks.len()), "{} ticks", ticks.len());
            for value in [a, b] {
                if value.abs() < 1e15 {
                    let slack = axis.step * 1e-6;
                    prop_assert!(axis.low - slack <= value && value <= axis.high + slack);
                }
            }
        }
    }
}
