//! What the process has used of the machine's memory.
//!
//! Out: bytes. Linux tells them; elsewhere there are none.

/// Starts a new count of the peak memory, where the system can.
pub fn reset_peak_memory() {
    // Linux only; elsewhere the peak stays that of the whole process.
    let _ = fs_err::write("/proc/self/clear_refs", "5");
}

/// The most memory that was resident, in bytes, since [`reset_peak_memory`].
#[must_use]
pub fn peak_memory_bytes() -> Option<u64> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}
