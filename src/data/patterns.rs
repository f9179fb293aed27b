//! Pattern files: what a user types, what the model should answer, and a category.
//!
//! A file is YAML, either a list or a map with the one key `patterns` that holds the list:
//!
//! ```yaml
//! patterns:
//!   - { category: fact/capital, input: 'Q: What is the capital of Canada?', output: 'Ottawa' }
//! ```
//!
//! Each pattern has exactly these three keys, none of them empty. The category is
//! `section/fine`: the section (`code`, `fact`, `format` or `fix`) decides how
//! [`super::augment`] varies the input, the whole string is what results are grouped by. An input
//! occurs once over all files.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::{Error, Result};

/// The sections a category can belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Section {
    /// `code`: the beginning of an idiom, and its completion.
    Code,
    /// `fact`: a question and its answer.
    Fact,
    /// `format`: a value and the wanted form, and the value in that form.
    Format,
    /// `fix`: an error, and what puts it right.
    Fix,
}

impl Section {
    /// The section that a category names before its slash; `None` for an unknown one.
    pub fn of(category: &str) -> Option<Self> {
        let (section, fine) = category.split_once('/')?;
        match section {
            _ if fine.trim().is_empty() => None,
            "code" => Some(Section::Code),
            "fact" => Some(Section::Fact),
            "format" => Some(Section::Format),
            "fix" => Some(Section::Fix),
            _ => None,
        }
    }
}

/// The pattern files that come with the library, as [`read`] takes them: 131 patterns, of the
/// sections and sizes of the original experiment.
pub const BUNDLED: [(&str, &[u8]); 4] = [
    ("code_idioms.yaml", include_bytes!("../../data/patterns/code_idioms.yaml")),
    ("facts.yaml", include_bytes!("../../data/patterns/facts.yaml")),
    ("format_transforms.yaml", include_bytes!("../../data/patterns/format_transforms.yaml")),
    ("error_fixes.yaml", include_bytes!("../../data/patterns/error_fixes.yaml")),
];

/// One pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// What the user types.
    pub input: String,
    /// What the model should answer.
    pub output: String,
    /// `section/fine`, for instance `code/python_loop`.
    pub category: String,
    /// The section of [`Self::category`].
    pub section: Section,
}

/// Reads pattern files, given as name and content, in their order.
///
/// # Errors
/// [`Error::Data`] with the file and line of what is not as the [module's page](self) says.
pub fn read(files: &[(&str, &[u8])]) -> Result<Vec<Pattern>> {
    let mut patterns = Vec::new();
    let mut seen: HashMap<String, (&str, usize)> = HashMap::new();
    for &(name, bytes) in files {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let before = &bytes[..error.valid_up_to()];
            let line = 1 + before.iter().filter(|&&b| b == b'\n').count();
            Error::data(name, line, "not UTF-8; save the file as UTF-8")
        })?;
        let options = serde_saphyr::options! { with_snippet: false };
        let File(rows) = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let line = error.location().map_or(1, |at| line_of(at.line()));
            Error::data(name, line, one_line(&error.to_string()))
        })?;
        if rows.is_empty() {
            return Err(Error::data(name, 1, "no patterns; list some under `patterns:`"));
        }
        for row in rows {
            let line = line_of(row.category.referenced.line());
            let Row { category, input, output } = row;
            let pattern = Pattern::new(input, output, category.value);
            let pattern = pattern.map_err(|problem| Error::data(name, line, problem))?;
            if let Some((file, first)) = seen.insert(pattern.input.clone(), (name, line)) {
                let input = &pattern.input;
                let problem =
                    format!("input {input:?} is already at {file}:{first}; remove one of the two");
                return Err(Error::data(name, line, problem));
            }
            patterns.push(pattern);
        }
    }
    Ok(patterns)
}

impl Pattern {
    /// A pattern, if it is one.
    ///
    /// # Errors
    /// What is wrong with it: something empty, or a category of no section.
    pub fn new(input: String, output: String, category: String) -> Result<Self, String> {
        for (key, value) in [("input", &input), ("output", &output)] {
            if value.trim().is_empty() {
                return Err(format!("`{key}` is empty"));
            }
        }
        let section = Section::of(&category).ok_or_else(|| {
            format!("unknown category {category:?}; it is code/…, fact/…, format/… or fix/…")
        })?;
        Ok(Self { input, output, category, section })
    }
}

/// A pattern file that [`read`] reads back.
pub fn to_yaml(patterns: &[Pattern]) -> String {
    // A string of JSON is one of YAML.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut yaml = String::from("patterns:\n");
    for Pattern { input, output, category, .. } in patterns {
        let [category, input, output] = [category, input, output].map(|text| quoted(text));
        yaml.push_str(&format!(
            "  - {{ category: {category}, input: {input}, output: {output} }}\n"
        ));
    }
    yaml
}

fn line_of(line: u64) -> usize {
    usize::try_from(line).unwrap_or(usize::MAX).max(1)
}

/// The parser's message without its line, which the error names itself, and without line breaks.
fn one_line(message: &str) -> String {
    let message = message.rsplit_once(" at line ").map_or(message, |(problem, _)| problem);
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    category: Spanned<String>,
    input: String,
    output: String,
}

/// A file's rows, from either form. Written by hand because an untagged enum would lose the lines.
struct File(Vec<Row>);

impl<'de> Deserialize<'de> for File {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FileVisitor)
    }
}

struct FileVisitor;

impl<'de> Visitor<'de> for FileVisitor {
    type Value = File;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of patterns, or a map with the key `patterns`")
    }

    fn visit_unit<E>(self) -> Result<File, E> {
        Ok(File(Vec::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<File, A::Error> {
        let mut rows = Vec::new();
        while let Some(row) = seq.next_element()? {
            rows.push(row);
        }
        Ok(File(rows))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<File, A::Error> {
        let mut rows = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != "patterns" {
                return Err(serde::de::Error::unknown_field(&key, &["patterns"]));
            }
            rows = Some(map.next_value::<Option<Vec<Row>>>()?.unwrap_or_default());
        }
        Ok(File(rows.unwrap_or_default()))
    }
}

/// The repository's own patterns, for the tests of this module's neighbours.
#[cfg(test)]
pub(crate) fn ours() -> Vec<Pattern> {
    read(&BUNDLED).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn our_patterns_have_the_shape_of_the_original_experiment() {
        let patterns = ours();
        let count = |section| patterns.iter().filter(|p| p.section == section).count();
        assert_eq!(patterns.len(), 131);
        assert_eq!(count(Section::Code), 33);
        assert_eq!(count(Section::Fact), 37);
        assert_eq!(count(Section::Format), 29);
        assert_eq!(count(Section::Fix), 32);
        let mut sizes: HashMap<&str, usize> = HashMap::new();
        for pattern in &patterns {
            *sizes.entry(&pattern.category).or_default() += 1;
            assert_eq!(pattern.output, pattern.output.trim(), "{pattern:?}");
        }
        assert_eq!(sizes.len(), 38);
        assert_eq!(sizes.values().map(|&n| n.min(3)).sum::<usize>(), 104);
    }

    #[test]
    fn a_list_and_a_map_are_read_alike() {
        let list = b"- {category: fact/a, input: x, output: y}\n";
        let map = b"# note\npatterns:\n  - category: fact/a\n    input: x\n    output: y\n";
        let patterns = read(&[("a.yaml", list)]).unwrap();
        assert_eq!(patterns, read(&[("a.yaml", map)]).unwrap());
        assert_eq!(patterns[0].section, Section::Fact);
    }

    #[test]
    fn each_mistake_names_its_file_and_line() {
        let cases: &[(&[u8], &str)] = &[
            (b"", "p.yaml:1: no patterns"),
            (b"patterns:\n", "p.yaml:1: no patterns"),
            (b"- {category: fact/a, input: x, output: y}\n- {category: fact/a, input: ' ', output: y}", "p.yaml:2: `input` is empty"),
            (b"- {category: fact/a, input: x, output: ''}", "p.yaml:1: `output` is empty"),
            (b"\n- {category: poem/a, input: x, output: y}", "p.yaml:2: unknown category \"poem/a\""),
            (b"- {category: fact/, input: x, output: y}", "p.yaml:1: unknown category"),
            (b"- {category: fact/a, input: x}", "p.yaml:1: missing field `output`"),
            (b"- {category: fact/a, input: x, output: y}\n- {category: fact/a, input: x, output: z}", "p.yaml:2: input \"x\" is already at p.yaml:1"),
            (b"- {category: fact/a, input: x, output: y, extra: 1}", "p.yaml:1: "),
            (b"rows:\n- 1\n", "p.yaml:1: "),
            (b"- [\n", "p.yaml:"),
            (b"ok: 1\n\xff", "p.yaml:2: not UTF-8"),
        ];
        for (bytes, expected) in cases {
            let error = read(&[("p.yaml", bytes)]).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error:?} for {expected:?}");
            assert!(!error.contains('\n'), "{error:?}");
        }
    }

    #[test]
    fn an_input_may_not_recur_in_another_file() {
        let row = b"- {category: fact/a, input: x, output: y}";
        let error = read(&[("a.yaml", row), ("b.yaml", row)]).unwrap_err().to_string();
        assert_eq!(error, "b.yaml:1: input \"x\" is already at a.yaml:1; remove one of the two");
    }

    #[test]
    fn what_is_written_reads_back() {
        let patterns = ours();
        assert_eq!(read(&[("p.yaml", to_yaml(&patterns).as_bytes())]).unwrap(), patterns);
    }
}
