//! CPU time and memory of other processes, from /proc.

/// Clock ticks a second in /proc/<pid>/stat; Linux has used this number on every machine since
/// the field exists.
const TICKS_PER_S: f64 = 100.0;

/// Sums over some processes.
#[derive(Debug, Clone, Copy)]
pub struct ProcessSample {
    pub cpu_s: f64,
    pub memory_bytes: u64,
}

/// Reads all of them; `None` without any, or if one is gone.
pub(super) fn sample(pids: &[u32]) -> Option<ProcessSample> {
    let one = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold anything; the fields follow its last bracket.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
        Some(ProcessSample { cpu_s: ticks / TICKS_PER_S, memory_bytes: kib * 1024 })
    };
    let samples = pids.iter().map(one).collect::<Option<Vec<_>>>()?;
    let sum = |a: ProcessSample, b: ProcessSample| ProcessSample {
        cpu_s: a.cpu_s + b.cpu_s,
        memory_bytes: a.memory_bytes + b.memory_bytes,
    };
    samples.into_iter().reduce(sum)
}
