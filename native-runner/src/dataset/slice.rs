//! A part of a set's records, as Hugging Face's `datasets` writes it: `train[:100]`, `[10%:20%]`.

use std::ops::Range;
use std::str::FromStr;

use anyhow::{Result, ensure};

/// `[FROM:TO]`; a boundary below 0 counts from the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    from: Option<i64>,
    to: Option<i64>,
    /// Whether the boundaries are percent of the records, not records.
    percent: bool,
}

impl Slice {
    /// The text before a slice at the end, and that; none where there is none.
    ///
    /// # Errors
    /// What ends as a slice does and is none.
    pub fn split(text: &str) -> Result<(&str, Option<Self>), String> {
        if text.contains("]+") {
            return Err("slices are not added up; name each by itself".to_owned());
        }
        let Some((before, inner)) = text.strip_suffix(']').and_then(|text| text.rsplit_once('['))
        else {
            return Ok((text, None));
        };
        Ok((before, Some(inner.parse()?)))
    }

    /// Which of `count` records it takes, by the rules of `datasets`: percents to the nearest record,
    /// and nothing beyond the end.
    pub fn range(&self, count: usize) -> Range<usize> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let absolute = |boundary: i64| {
            let at = match self.percent {
                // As Python rounds.
                true => (boundary as f64 * count as f64 / 100.0).round_ties_even() as i64,
                false => boundary,
            };
            let at = if at < 0 { at.saturating_add(count).max(0) } else { at };
            at.min(count) as usize
        };
        let from = self.from.map_or(0, absolute);
        from..self.to.map_or(count as usize, absolute).max(from)
    }

    /// [`Self::range`] with a record in it; `name` is what errors call the set.
    pub fn of(&self, name: &str, count: usize) -> Result<Range<usize>> {
        let range = self.range(count);
        ensure!(!range.is_empty(), "{name}: no record of {count} is in the slice {self}");
        Ok(range)
    }
}

impl FromStr for Slice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || format!("[{text}] is no slice such as [:100], [10%:20%] or [-50:]");
        let (from, to) = text.split_once(':').ok_or_else(problem)?;
        let percent = from.ends_with('%') || to.ends_with('%');
        let boundary = |text: &str| match text.strip_suffix('%').unwrap_or(text) {
            "" if text.is_empty() => Ok(None),
            number => number.parse::<i64>().map(Some).map_err(|_| problem()),
        };
        let (from, to) = (boundary(from)?, boundary(to)?);
        if percent && [from, to].into_iter().flatten().any(|share| share.abs() > 100) {
            return Err(format!("[{text}]: a share is between -100 % and 100 %"));
        }
        Ok(Self { from, to, percent })
    }
}

impl std::fmt::Display for Slice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unit = if self.percent { "%" } else { "" };
        let boundary = |at: Option<i64>| at.map_or(String::new(), |at| format!("{at}{unit}"));
        write!(f, "[{}:{}]", boundary(self.from), boundary(self.to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_datasets_takes() {
        // By `ReadInstruction.from_spec(…).to_absolute({"train": count})` of datasets 5.2.
        for (text, count, range) in [
            ("[:100]", 250, 0..100),
            ("[:100]", 50, 0..50),
            ("[10:20]", 250, 10..20),
            ("[-50:]", 250, 200..250),
            ("[:-1]", 3, 0..2),
            ("[:10%]", 250, 0..25),
            ("[:1%]", 250, 0..2),
            ("[33%:66%]", 10, 3..7),
            ("[-10%:]", 250, 225..250),
            ("[:]", 7, 0..7),
        ] {
            let (before, slice) = Slice::split(text).unwrap();
            assert_eq!((before, slice.unwrap().range(count)), ("", range), "{text} of {count}");
        }
        assert_eq!(Slice::split("a/b:train").unwrap(), ("a/b:train", None));
        let (before, slice) = Slice::split("a/b:train[:10%]").unwrap();
        assert_eq!((before, slice.unwrap().to_string()), ("a/b:train", "[:10%]".to_owned()));
        for (text, expected) in [
            ("train[5]", "[5] is no slice"),
            ("train[a:b]", "[a:b] is no slice"),
            ("train[%:]", "[%:] is no slice"),
            ("train[:200%]", "a share is between"),
            ("train[:1%]+train[-1%:]", "not added up"),
        ] {
            assert!(Slice::split(text).unwrap_err().contains(expected), "{text}");
        }
        let error = "[90:80]".strip_prefix('[').unwrap().strip_suffix(']').unwrap();
        let error = error.parse::<Slice>().unwrap().of("x", 250).unwrap_err().to_string();
        assert_eq!(error, "x: no record of 250 is in the slice [90:80]");
    }
}
