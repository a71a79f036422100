//! Numbers as people read them.
//!
//! In:  counts, times, sizes, scores. Out: short text.
//! Not here: metric values (`crate::metric`).

/// `12,345`.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `35 ms`, `4.2 s`, `1 min 23 s`, `2 h 05 min`.
pub(super) fn duration(seconds: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates, which is right for times beyond all years"
    )]
    let whole = seconds.round() as u64;
    match seconds {
        s if !s.is_finite() || s < 0.0 => "–".to_owned(),
        s if s < 0.999_5 => format!("{:.0} ms", 1000.0 * s),
        s if s < 59.95 => format!("{s:.1} s"),
        _ if whole < 3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// `1.23 GiB`.
#[expect(clippy::cast_precision_loss, reason = "three figures are shown")]
pub(super) fn bytes(n: u64) -> String {
    if n < 1000 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    for unit in ["KiB", "MiB", "GiB"] {
        if value < 1000.0 {
            return significant(value) + " " + unit;
        }
        value /= 1024.0;
    }
    significant(value) + " TiB"
}

/// Three figures: `0.123`, `12.3`, `1234`.
pub(super) fn significant(value: f64) -> String {
    match value.abs() {
        a if a < 1e-3 || !value.is_finite() => format!("{value}"),
        a if a < 1.0 => format!("{value:.3}"),
        a if a < 10.0 => format!("{value:.2}"),
        a if a < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A cosine: `0.31`, with a true minus.
pub(super) fn score(value: f64) -> String {
    minus(format!("{value:.2}"))
}

/// Replaces the hyphen of a negative number, which is too short beside a plus.
pub(super) fn minus(text: String) -> String {
    let text = text.replace('-', "−");
    if text.trim_start_matches('−').chars().all(|c| matches!(c, '0' | '.')) {
        return text.trim_start_matches('−').to_owned();
    }
    text
}

/// The first characters of a hash, enough to tell two apart.
pub(super) fn short_hash(hash: &str) -> String {
    hash.chars().take(12).collect()
}
