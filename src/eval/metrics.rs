//! When an answer counts as right.

use serde::{Deserialize, Serialize};

use super::harness::PromptForm;
use super::stats::{Interval, wilson};

/// How the candidates are asked and when an answer is right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// The form of the original Engram experiment: the prompt goes to the model bare, without the
    /// chat template it was trained with, and an answer is right if it *starts with* the expected
    /// one. Kept so that its figures can be reproduced.
    Original,
    /// The chat template around the prompt, and an answer is right only if it *is* the expected
    /// one; both stripped of surrounding white space. Meant for a held-out split.
    #[default]
    Honest,
}

/// What one answer is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// Right by the rule of the protocol.
    pub correct: bool,
    /// The expected answer stands somewhere in the actual one; true of every right answer.
    pub partial: bool,
}

impl Protocol {
    /// How a prompt is put to the model.
    pub fn form(self) -> PromptForm {
        match self {
            Protocol::Original => PromptForm::Raw,
            Protocol::Honest => PromptForm::Chat,
        }
    }

    /// Judges one answer. Case and inner white space count.
    pub fn judge(self, expected: &str, actual: &str) -> Judgement {
        let (expected, actual) = (strip(expected), strip(actual));
        let correct = match self {
            Protocol::Original => actual.starts_with(expected),
            Protocol::Honest => actual == expected,
        };
        Judgement { correct, partial: actual.contains(expected) }
    }
}

/// Python's `str.strip()`, which also takes the four separators U+001C to U+001F that Unicode's
/// White_Space leaves.
pub fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}

/// Right answers among a number of examples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Examples asked.
    pub n: usize,
    /// Right answers.
    pub correct: usize,
    /// `correct / n`, 0 to 1; 0 if nothing was asked.
    pub accuracy: f64,
    /// 95 % Wilson score interval of the accuracy.
    pub wilson: Interval,
    /// Answers that contain the expected one, the right ones among them.
    pub partial: usize,
}

impl Score {
    /// Counts `judgements`.
    pub fn of(judgements: impl IntoIterator<Item = Judgement>) -> Self {
        let (mut n, mut correct, mut partial) = (0, 0, 0);
        for judgement in judgements {
            n += 1;
            correct += usize::from(judgement.correct);
            partial += usize::from(judgement.partial);
        }
        let accuracy = if n == 0 { 0.0 } else { correct as f64 / n as f64 };
        Score { n, correct, accuracy, wilson: wilson(correct, n), partial }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    fn judged(protocol: Protocol, expected: &str, actual: &str) -> (bool, bool) {
        let judgement = protocol.judge(expected, actual);
        (judgement.correct, judgement.partial)
    }

    #[test]
    fn the_original_form_takes_a_prefix() {
        let original = |expected, actual| judged(Protocol::Original, expected, actual);
        assert_eq!(original("Paris\n", "\n Paris, of course."), (true, true));
        assert_eq!(original("Paris", "It is Paris."), (false, true));
        assert_eq!(original("Paris", "paris"), (false, false));
        assert_eq!(original("a  b", "a b"), (false, false));
    }

    #[test]
    fn the_honest_form_takes_the_whole_answer_only() {
        let honest = |expected, actual| judged(Protocol::Honest, expected, actual);
        assert_eq!(honest(" Paris", "Paris\n"), (true, true));
        assert_eq!(honest("Paris", "Paris."), (false, true));
        assert_eq!(honest("Paris", "Pari"), (false, false));
    }

    #[test]
    fn strips_what_python_strips() {
        // "\x1c\u3000 x\u200b\x1f".strip() == "x\u200b": a zero-width space is no white space.
        assert_eq!(strip("\u{1c}\u{3000} x\u{200b}\u{1f}"), "x\u{200b}");
        assert_eq!(strip(" \t\n"), "");
    }

    #[test]
    fn a_score_counts() {
        let judgement = |correct, partial| Judgement { correct, partial };
        let score =
            Score::of([judgement(true, true), judgement(false, true), judgement(false, false)]);
        assert_eq!((score.n, score.correct, score.partial), (3, 1, 2));
        assert_eq!(score.accuracy, 1.0 / 3.0);
        assert_eq!(Score::of([]).accuracy, 0.0);
    }
}
