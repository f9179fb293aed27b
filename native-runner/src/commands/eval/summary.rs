//! A report in a few lines for the terminal.

use engram::eval::Report;
use engram::eval::markdown::verdict_sentence;
use engram::eval::report::Loss;

use crate::table::table;

/// The table of the candidates, then what each comparison with the first one says.
pub fn summary(report: &Report) -> String {
    let mut head = vec!["", "right", "accuracy", "95 % interval", "contains"];
    let losses = report.candidates.iter().any(|candidate| candidate.loss.is_some());
    if losses {
        head.extend(["loss", "perplexity"]);
    }
    let rows: Vec<Vec<String>> = report
        .candidates
        .iter()
        .map(|candidate| {
            let score = &candidate.overall;
            let (low, high) = (percent(score.wilson.low), percent(score.wilson.high));
            let mut row = vec![
                candidate.name.clone(),
                format!("{} of {}", score.correct, score.n),
                percent(score.accuracy),
                format!("{low} to {high}"),
                format!("{} of {}", score.partial, score.n),
            ];
            if losses {
                row.extend(loss_cells(candidate.loss));
            }
            row
        })
        .collect();
    let mut out = table(&head, &rows);
    for comparison in report.comparisons.iter().filter(|c| c.first == report.candidates[0].name) {
        out.push_str(&verdict_sentence(report, comparison));
        out.push('\n');
    }
    out
}

/// Losses over one file, by candidate.
pub fn losses(of: &[(String, Option<Loss>)]) -> String {
    let row = |(name, loss): &(String, Option<Loss>)| {
        let tokens = loss.map_or(0, |loss| loss.tokens).to_string();
        let [mean, perplexity] = loss_cells(*loss);
        vec![name.clone(), tokens, mean, perplexity]
    };
    table(&["", "tokens", "loss", "perplexity"], &of.iter().map(row).collect::<Vec<_>>())
}

fn loss_cells(loss: Option<Loss>) -> [String; 2] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".into());
    [
        or_dash(loss.map(|loss| format!("{:.3}", loss.mean))),
        or_dash(loss.and_then(|loss| loss.perplexity).map(|p| format!("{p:.2}"))),
    ]
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}
