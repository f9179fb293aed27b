//! Stop strings in a streamed text.

use crate::{Error, Result};

/// Ends a streamed text before the first of some strings.
///
/// Text that may be the beginning of a stop string is held back until it is certain. Where the
/// text is cut does not depend on how it arrived: the stop string that is complete first counts.
#[derive(Debug, Clone)]
pub struct StopText {
    stops: Vec<String>,
    held: String,
    hit: Option<usize>,
}

/// What came of one piece of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopEvent {
    /// Text that no stop string will take back; without the stop string itself.
    pub text: String,
    /// The stop string that has been met, by its place in the list.
    pub hit: Option<usize>,
}

impl StopText {
    /// Watches for any of `stops`; none is allowed, and then nothing is held back.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty stop string.
    pub fn new(stops: impl IntoIterator<Item = impl Into<String>>) -> Result<Self> {
        let stops: Vec<String> = stops.into_iter().map(Into::into).collect();
        if stops.iter().any(String::is_empty) {
            return Err(Error::invalid("a stop string is empty: give it text or leave it out"));
        }
        Ok(Self { stops, held: String::new(), hit: None })
    }

    /// Adds text. After a hit, nothing more comes out.
    pub fn push(&mut self, text: &str) -> StopEvent {
        if self.hit.is_some() {
            return StopEvent { text: String::new(), hit: self.hit };
        }
        self.held.push_str(text);
        let first = self
            .stops
            .iter()
            .enumerate()
            .filter_map(|(i, stop)| self.held.find(stop).map(|at| (at + stop.len(), at, i)))
            .min();
        let certain = match first {
            Some((_, at, i)) => {
                self.hit = Some(i);
                at
            }
            None => self.held.len() - self.longest_open_stop(),
        };
        let rest = self.held.split_off(certain);
        let text = std::mem::replace(&mut self.held, rest);
        if self.hit.is_some() {
            self.held.clear();
        }
        StopEvent { text, hit: self.hit }
    }

    /// Ends the text: returns what was held back, since it did not become a stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes at the end of the held text with which some stop string begins.
    fn longest_open_stop(&self) -> usize {
        let open = |stop: &String| {
            stop.char_indices().map(|(i, _)| i).filter(|&i| self.held.ends_with(&stop[..i])).max()
        };
        self.stops.iter().filter_map(open).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::test;

    fn run(stops: &[String], pieces: &[String]) -> (String, Option<usize>) {
        let mut stop = StopText::new(stops).unwrap();
        let mut text = String::new();
        let mut hit = None;
        for piece in pieces {
            let event = stop.push(piece);
            text.push_str(&event.text);
            hit = event.hit;
        }
        text.push_str(&stop.finish());
        (text, hit)
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            stops in prop::collection::vec("[abé]{1,3}", 0..3),
            pieces in prop::collection::vec("[abcé]{0,3}", 0..8),
        ) {
            let whole = pieces.concat();
            let (text, hit) = run(&stops, &pieces);
            // The specification: the shortest beginning of the text that ends in a stop string.
            let end = whole
                .char_indices()
                .map(|(i, c)| i + c.len_utf8())
                .find(|&end| stops.iter().any(|stop| whole[..end].ends_with(stop.as_str())));
            match end {
                None => prop_assert_eq!((text, hit), (whole, None)),
                Some(end) => {
                    let longest = stops
                        .iter()
                        .filter(|stop| whole[..end].ends_with(stop.as_str()))
                        .max_by_key(|stop| stop.len())
                        .unwrap();
                    prop_assert_eq!(&stops[hit.unwrap()], longest);
                    prop_assert_eq!(text, &whole[..end - longest.len()]);
                }
            }
        }
    }

    #[test]
    fn holds_back_only_what_may_become_a_stop() {
        let mut stop = StopText::new(["\nUser:"]).unwrap();
        assert_eq!(stop.push("Hi\nUs").text, "Hi");
        assert_eq!(stop.push("ual").text, "\nUsual");
        assert_eq!(stop.push("\nUser").text, "");
        assert_eq!(stop.push(": no"), StopEvent { text: String::new(), hit: Some(0) });
        assert_eq!(stop.push("more"), StopEvent { text: String::new(), hit: Some(0) });
        assert_eq!(stop.finish(), "");
    }

    #[test]
    fn an_empty_stop_is_refused() {
        assert!(StopText::new([""]).is_err());
        assert_eq!(StopText::new(Vec::<String>::new()).unwrap().push("x").text, "x");
    }
}
