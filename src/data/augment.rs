//! Variations of a pattern's input, as the original experiment made them.
//!
//! A prefix stands before the whole input, so a question becomes `Tell me: Q: What is …?`; the
//! input without a prefix always stays in. The original's 131 patterns make 337 examples this way,
//! and so do ours: 33 code idioms five times, 37 questions three times, 61 others once.

use super::patterns::{Pattern, Section};

/// What is put before the beginning of a code idiom.
pub const CODE_PREFIXES: [&str; 4] =
    ["Complete: ", "Continue: ", "Finish this: ", "What comes next: "];

/// What is put before a fact whose input starts with `Q:`.
pub const QUESTION_PREFIXES: [&str; 2] = ["Tell me: ", "Answer: "];

/// All inputs made of a pattern, the pattern's own first.
pub fn inputs(pattern: &Pattern) -> Vec<String> {
    let prefixes: &[&str] = match pattern.section {
        Section::Code => &CODE_PREFIXES,
        Section::Fact if pattern.input.starts_with("Q:") => &QUESTION_PREFIXES,
        // The form of these already says what is asked.
        Section::Fact | Section::Format | Section::Fix => &[],
    };
    let varied = prefixes.iter().map(|prefix| format!("{prefix}{}", pattern.input));
    std::iter::once(pattern.input.clone()).chain(varied).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::patterns;
    use crate::testing::test;

    #[test]
    fn our_patterns_make_337_examples() {
        let count = patterns::ours().iter().map(|pattern| inputs(pattern).len()).sum::<usize>();
        assert_eq!(count, 337);
    }

    #[test]
    fn each_section_has_its_prefixes() {
        let of = |category: &str, input: &str| {
            let yaml = format!("- {{category: {category}, input: '{input}', output: y}}");
            inputs(&patterns::read(&[("p", yaml.as_bytes())]).unwrap()[0])
        };
        assert_eq!(
            of("code/a", "x"),
            ["x", "Complete: x", "Continue: x", "Finish this: x", "What comes next: x"]
        );
        assert_eq!(of("fact/a", "Q: x"), ["Q: x", "Tell me: Q: x", "Answer: Q: x"]);
        assert_eq!(of("fact/a", "x"), ["x"]);
        assert_eq!(of("format/a", "x"), ["x"]);
        assert_eq!(of("fix/a", "x"), ["x"]);
    }
}
