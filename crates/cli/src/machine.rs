//! What this machine is and what the process has used of it, for reports.

/// Starts a new count of the peak memory, where the system can.
pub(crate) fn reset_peak_memory() {
    // Linux only; elsewhere the peak stays that of the whole process.
    let _ = fs_err::write("/proc/self/clear_refs", "5");
}

/// The most memory the process has held, in bytes, since [`reset_peak_memory`].
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

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
