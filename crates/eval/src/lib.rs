//! Retrieval metrics with intervals, score distributions and before/after reports.
