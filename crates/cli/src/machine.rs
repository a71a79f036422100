//! What this machine is and what the process has used of it, for reports.

pub(crate) use conjoin_train::{peak_memory_bytes, reset_peak_memory};

/// Processor and threads, for the record beside figures.
pub(crate) fn description() -> String {
    let cpu = fs_err::read_to_string("/proc/cpuinfo").ok();
    let model = cpu.as_deref().and_then(|info| {
        let line = info.lines().find_map(|line| line.strip_prefix("model name"))?;
        Some(line.trim_start_matches([' ', '\t', ':']).to_owned())
    });
    let model = model.unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    format!("{model}, {} threads", rayon::current_num_threads())
}
