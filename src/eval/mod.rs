//! One evaluation harness: metrics, statistics, report, plots.
