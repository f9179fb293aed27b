//! The report as Markdown, for reading: `report.md`.

use std::fmt::Write;

use super::metrics::{Protocol, Score};
use super::plots::Plot;
use super::report::{CandidateReport, Comparison, Report, Training};

/// Examples shown at most where the candidates differ; `report.json` has them all.
const SHOWN_EXAMPLES: usize = 12;
/// Characters shown at most of one prompt or answer.
const SHOWN_CHARS: usize = 80;
/// Below this many examples in every category, the table by category comes with a warning.
const FEW: usize = 10;

/// `report.md`. Each of `plots` is shown from the file `{name}.svg` beside it.
pub fn markdown(report: &Report, plots: &[Plot]) -> String {
    let mut out = Markdown(String::new());
    out.line(&format!("# Evaluation of {}", plain(&report.model)));
    if report.candidates.is_empty() {
        out.line("No candidate was evaluated.");
        return out.0;
    }
    verdict(&mut out, report);
    accuracy(&mut out, report);
    comparisons(&mut out, report);
    for plot in plots {
        out.line(&format!("![{}]({}.svg)", plain(&plot.title), plot.name));
    }
    categories(&mut out, report);
    latency(&mut out, report);
    if let Some(training) = &report.training {
        training_section(&mut out, training);
    }
    examples(&mut out, report);
    notes(&mut out, report);
    out.0
}

/// What a comparison says, in one sentence.
pub fn verdict_sentence(report: &Report, comparison: &Comparison) -> String {
    let score = |name: &str| {
        let found = report.candidates.iter().find(|candidate| candidate.name == name);
        found.map_or((0, 0), |candidate| (candidate.overall.correct, candidate.overall.n))
    };
    let (first, _) = score(&comparison.first);
    let (second, n) = score(&comparison.second);
    let meaning = match (comparison.significant, second > first) {
        (false, _) => "no significant difference",
        (true, true) => "significantly better",
        (true, false) => "significantly worse",
    };
    format!(
        "{}: {second} of {n} right against {first} of {n} for {}, McNemar {}: {meaning}",
        plain(&comparison.second),
        plain(&comparison.first),
        p_value(comparison.p_value),
    )
}

/// `p = 0.55`, to two digits that mean something.
pub(super) fn p_value(p: f64) -> String {
    match p {
        p if p < 0.001 => "p < 0.001".into(),
        p if p < 0.1 => format!("p = {p:.3}"),
        p => format!("p = {p:.2}"),
    }
}

/// `11.5 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn verdict(out: &mut Markdown, report: &Report) {
    let against_first: Vec<_> = report
        .comparisons
        .iter()
        .filter(|comparison| comparison.first == report.candidates[0].name)
        .collect();
    for comparison in &against_first {
        out.line(&format!("**{}.**", verdict_sentence(report, comparison)));
    }
    if against_first.is_empty() {
        let CandidateReport { name, overall, .. } = &report.candidates[0];
        out.line(&format!(
            "**{}: {} of {} right, {}.**",
            plain(name),
            overall.correct,
            overall.n,
            accuracy_with_interval(overall)
        ));
    }
    let Report { dataset, .. } = report;
    let how = match report.protocol {
        Protocol::Original => {
            "the bare prompt without the chat template; right is what starts with the expected \
             answer (the original experiment's form)"
        }
        Protocol::Honest => {
            "the prompt in the model's chat template; right is what equals the expected answer, \
             surrounding white space aside"
        }
    };
    let sha256 =
        dataset.sha256.as_ref().map_or(String::new(), |s| format!(" (sha256 {})", code(s)));
    out.line(&format!(
        "{} examples of {}{sha256}, greedy, up to {} new tokens each. Asked with {how}.",
        dataset.examples,
        plain(&dataset.name),
        report.max_new_tokens
    ));
}

fn accuracy(out: &mut Markdown, report: &Report) {
    out.line("## Accuracy");
    let mut head = vec!["", "right", "accuracy", "95 % interval", "contains the answer"];
    let losses = report.candidates.iter().any(|c| c.loss.is_some());
    let consistency = report.candidates.iter().any(|c| c.consistency.is_some());
    if losses {
        head.extend(["loss", "perplexity"]);
    }
    if consistency {
        head.push("same in every run");
    }
    let rows = report.candidates.iter().map(|candidate| {
        let Score { n, correct, accuracy, wilson, partial } = candidate.overall;
        let mut row = vec![
            plain(&candidate.name),
            format!("{correct} of {n}"),
            percent(accuracy),
            format!("{} to {}", percent(wilson.low), percent(wilson.high)),
            format!("{partial} of {n}"),
        ];
        if losses {
            let loss = candidate.loss;
            row.push(or_dash(loss.map(|loss| format!("{:.3}", loss.mean))));
            row.push(or_dash(loss.and_then(|l| l.perplexity).map(|p| format!("{p:.2}"))));
        }
        if consistency {
            row.push(or_dash(
                candidate.consistency.map(|c| format!("{} of {n} ({} runs)", c.consistent, c.runs)),
            ));
        }
        row
    });
    out.table(&head, rows);
}

fn comparisons(out: &mut Markdown, report: &Report) {
    if report.comparisons.is_empty() {
        return;
    }
    let head = ["", "both right", "only the first", "only the second", "neither", "McNemar"];
    let rows = report.comparisons.iter().map(|c| {
        vec![
            format!("{}, then {}", plain(&c.first), plain(&c.second)),
            c.both.to_string(),
            c.only_first.to_string(),
            c.only_second.to_string(),
            c.neither.to_string(),
            p_value(c.p_value),
        ]
    });
    out.table(&head, rows);
}

fn categories(out: &mut Markdown, report: &Report) {
    out.line("## By category");
    let names: Vec<String> = report.candidates.iter().map(|c| plain(&c.name)).collect();
    let mut head = vec!["", "examples"];
    head.extend(names.iter().map(String::as_str));
    let first = &report.candidates[0].per_category;
    let rows = first.iter().enumerate().map(|(i, category)| {
        let mut row = vec![plain(&category.category), category.score.n.to_string()];
        row.extend(report.candidates.iter().map(|candidate| {
            or_dash(candidate.per_category.get(i).map(|c| c.score.correct.to_string()))
        }));
        row
    });
    out.table(&head, rows);
    if first.iter().all(|category| category.score.n < FEW) {
        out.line(&format!(
            "Every category has fewer than {FEW} examples: a difference within one says little."
        ));
    }
}

fn latency(out: &mut Markdown, report: &Report) {
    if report.candidates.iter().all(|candidate| candidate.latency.is_none()) {
        return;
    }
    out.line("## Latency");
    let head =
        ["", "completions", "mean ms", "median ms", "std ms", "min ms", "max ms", "tokens/s"];
    let rows = report.candidates.iter().filter_map(|candidate| {
        let latency = candidate.latency?;
        let times =
            [latency.mean_ms, latency.median_ms, latency.std_ms, latency.min_ms, latency.max_ms];
        let mut row = vec![plain(&candidate.name), latency.n.to_string()];
        row.extend(times.map(|ms| format!("{ms:.1}")));
        row.push(or_dash(latency.tokens_per_second.map(|speed| format!("{speed:.1}"))));
        Some(row)
    });
    out.table(&head, rows);
}

fn training_section(out: &mut Markdown, training: &Training) {
    out.line("## Training");
    let mut facts = Vec::new();
    if let Some(parameters) = training.trainable_parameters {
        facts.push(format!("{parameters} trained parameters"));
    }
    if let Some(cost) = training.cost {
        facts.push(format!("{:.1} s", cost.seconds));
        facts.extend(cost.tokens_per_second.map(|speed| format!("{speed:.1} tokens/s")));
        facts.extend(
            cost.peak_memory_bytes
                .map(|bytes| format!("at most {:.1} MB of GPU memory", bytes as f64 / 1e6)),
        );
    }
    if !facts.is_empty() {
        out.line(&format!("{}.", facts.join(", ")));
    }
    let loss = |value: Option<f64>| or_dash(value.map(|loss| format!("{loss:.3}")));
    let rows = training
        .curve
        .iter()
        .map(|point| vec![point.iteration.to_string(), loss(point.train), loss(point.validation)]);
    out.table(&["iteration", "training loss", "validation loss"], rows);
    // An indented block: a fence could be closed by the text within.
    let config = serde_json::to_string_pretty(&training.config).unwrap_or_default();
    let indented: Vec<_> = config.lines().map(|line| format!("    {line}")).collect();
    out.line(&indented.join("\n"));
}

fn examples(out: &mut Markdown, report: &Report) {
    let candidates = &report.candidates;
    let differing: Vec<usize> = (0..candidates[0].outputs.len())
        .filter(|&i| {
            let correct = |c: &CandidateReport| c.outputs.get(i).map(|output| output.correct);
            candidates.iter().any(|candidate| correct(candidate) != correct(&candidates[0]))
        })
        .collect();
    if differing.is_empty() {
        return;
    }
    out.line("## Where the candidates differ");
    if differing.len() > SHOWN_EXAMPLES {
        out.line(&format!(
            "The first {SHOWN_EXAMPLES} of {}; report.json has all.",
            differing.len()
        ));
    }
    let names: Vec<String> = candidates.iter().map(|candidate| plain(&candidate.name)).collect();
    let mut head = vec!["prompt", "expected"];
    head.extend(names.iter().map(String::as_str));
    let rows = differing.into_iter().take(SHOWN_EXAMPLES).map(|i| {
        let asked = &candidates[0].outputs[i];
        let mut row = vec![code(&asked.prompt), code(&asked.expected)];
        row.extend(candidates.iter().map(|candidate| {
            let output = candidate.outputs.get(i);
            or_dash(output.map(|output| {
                format!("{} {}", if output.correct { "✓" } else { "✗" }, code(&output.actual))
            }))
        }));
        row
    });
    out.table(&head, rows);
}

fn notes(out: &mut Markdown, report: &Report) {
    out.line("## Notes");
    let examples = report.dataset.examples;
    let mut notes = vec![match report.dataset.seen_in_training {
        Some(0) => "Held-out: no example stems from a pattern that was trained on.".into(),
        Some(seen) => format!(
            "Not held-out: {seen} of {examples} examples stem from patterns that were trained on, \
             so that accuracy measures recall of the training data as well."
        ),
        None => "Whether examples overlap the training data is not known.".into(),
    }];
    if report.protocol == Protocol::Original {
        notes.push(
            "An adapter trained with the chat template is asked without it here, which can hide \
             what it learned."
                .into(),
        );
    }
    for candidate in &report.candidates {
        if candidate.cut_off > 0 {
            notes.push(format!(
                "{}: {} of {examples} answers reached the limit of {} tokens.",
                plain(&candidate.name),
                candidate.cut_off,
                report.max_new_tokens
            ));
        }
    }
    if report.comparisons.len() > 1 {
        notes.push(format!(
            "The {} p-values are not corrected for their number.",
            report.comparisons.len()
        ));
    }
    if report.candidates.iter().any(|candidate| candidate.consistency.is_some()) {
        notes.push("Greedy decoding gives the same answer each time; less is a fault.".into());
    }
    let environment = &report.environment;
    notes.push(format!(
        "Engram {} ({}) on {}.",
        plain(&environment.version),
        plain(&environment.target),
        plain(&environment.adapter)
    ));
    out.line(&notes.iter().map(|note| format!("- {note}")).collect::<Vec<_>>().join("\n"));
}

fn accuracy_with_interval(score: &Score) -> String {
    format!(
        "{} (95 % interval {} to {})",
        percent(score.accuracy),
        percent(score.wilson.low),
        percent(score.wilson.high)
    )
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "–".into())
}

/// Text of others as one line of plain text: no markup of theirs takes effect.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_control() => out.push(' '),
            '\\' | '`' | '*' | '[' | ']' | '<' | '>' | '|' | '#' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

/// Text of others as a code span in a table's cell, shortened, line ends written `⏎`.
fn code(text: &str) -> String {
    let mut shown = String::new();
    let text = text.trim();
    for c in text.chars().take(SHOWN_CHARS) {
        match c {
            '\n' => shown.push('⏎'),
            // A table takes the bar for a column even within code, unless escaped.
            '|' => shown.push_str("\\|"),
            c if c.is_control() => shown.push(' '),
            c => shown.push(c),
        }
    }
    if text.chars().nth(SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    let longest = shown.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    match shown.as_str() {
        "" => "(nothing)".into(),
        _ if longest > 0 => format!("{fence} {shown} {fence}"),
        _ => format!("`{shown}`"),
    }
}

/// Markdown as it grows, a blank line after each part.
struct Markdown(String);

impl Markdown {
    fn line(&mut self, text: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn table(&mut self, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
        let mut text = format!("| {} |\n|{}", head.join(" | "), " --- |".repeat(head.len()));
        for row in rows {
            // Writing to a String can't fail.
            let _ = write!(text, "\n| {} |", row.join(" | "));
        }
        self.line(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::fixtures::{bless, experiment, small};
    use crate::eval::plots::plots;
    use crate::testing::test;

    #[test]
    fn the_markdown_is_the_golden_one() {
        let report = small();
        let text = markdown(&report, &plots(&report));
        bless("report.md", &text);
        assert_eq!(text, include_str!("../../data/goldens/eval/report.md"));
    }

    #[test]
    fn the_verdict_claims_no_more_than_the_test() {
        let mut report = experiment();
        let mut comparison = report.comparisons[0].clone();
        assert_eq!(
            verdict_sentence(&report, &comparison),
            "tuned: 12 of 104 right against 9 of 104 for base, McNemar p = 0.55: no significant \
             difference"
        );
        comparison.p_value = 0.0123;
        comparison.significant = true;
        assert!(verdict_sentence(&report, &comparison).ends_with("0.012: significantly better"));
        report.candidates[1].overall.correct = 3;
        assert!(verdict_sentence(&report, &comparison).ends_with("0.012: significantly worse"));
    }

    #[test]
    fn small_p_values_are_bounds() {
        let all = [0.0, 0.00099, 0.001, 0.0499, 0.25, 1.0].map(p_value);
        let expected = ["p < 0.001", "p < 0.001", "p = 0.001", "p = 0.050", "p = 0.25", "p = 1.00"];
        assert_eq!(all, expected);
    }

    #[test]
    fn notes_tell_what_weakens_the_result() {
        let mut report = small();
        let notes = |report: &Report| {
            let text = markdown(report, &[]);
            text[text.find("## Notes").unwrap()..].to_owned()
        };
        report.dataset.seen_in_training = Some(3);
        report.protocol = Protocol::Original;
        report.comparisons.push(report.comparisons[0].clone());
        let all = notes(&report);
        for part in ["Not held-out: 3 of 4", "without it", "2 p-values are not corrected"] {
            assert!(all.contains(part), "{part} is not in {all}");
        }
        report.dataset.seen_in_training = None;
        report.candidates[1].cut_off = 2;
        assert!(notes(&report).contains("tuned: 2 of 4 answers reached the limit of 50"));
        assert!(notes(&report).contains("is not known"));
    }

    #[test]
    fn a_single_candidate_gets_its_interval() {
        let mut report = small();
        report.candidates.truncate(1);
        report.comparisons.clear();
        let verdict = "**base: 1 of 4 right, 25.0 % (95 % interval 4.6 % to 69.9 %).**";
        assert!(markdown(&report, &[]).contains(verdict));
        report.candidates.clear();
        assert!(markdown(&report, &[]).ends_with("No candidate was evaluated.\n"));
    }

    #[test]
    fn text_of_others_stays_in_its_cell() {
        assert_eq!(code("a|b\nc"), "`a\\|b⏎c`");
        assert_eq!(code("x `` y"), "``` x `` y ```");
        assert_eq!(code(" \n"), "(nothing)");
        assert_eq!(code(&"é".repeat(90)), format!("`{}…`", "é".repeat(80)));
        assert_eq!(plain("a|*b*\n<i>"), "a\\|\\*b\\* \\<i\\>");
    }
}
