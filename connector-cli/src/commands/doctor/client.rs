//! The limits of this machine and this process.

use connectors::Diagnosis;

use super::of_error;
use super::report::Report;
use crate::exit::Failure;
use crate::setup::Setup;
use crate::size::ByteSize;

/// Fewer files may be too few for connections and directories.
#[cfg(unix)]
const FEW_FILES: u64 = 1024;
/// The pool may take this share of the memory.
#[cfg(target_os = "linux")]
const POOL_SHARE: f64 = 0.8;

pub(super) fn examine(setup: &Setup, report: &mut Report<'_>) -> Result<(), Failure> {
    report.add(match connectors::runtime::threads() {
        Ok(threads) => Diagnosis::ok("threads", format!("{threads} (`KVCONN_THREADS` sets them)")),
        Err(e) => of_error("threads", &e),
    })?;
    #[cfg(unix)]
    report.add(files())?;
    #[cfg(target_os = "linux")]
    if let Some(line) = pool(setup.pool_bytes()) {
        report.add(line)?;
    }
    report.add(hash_seed())
}

#[cfg(unix)]
fn files() -> Diagnosis {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    match limit {
        Some(limit @ ..FEW_FILES) => {
            let advice = "raise it (`ulimit -n 65536`, or `LimitNOFILE=` of the service): connections and directories need files";
            Diagnosis::warn("open files", format!("at most {limit}"), advice)
        }
        Some(limit) => Diagnosis::ok("open files", format!("at most {limit}")),
        None => Diagnosis::ok("open files", "no limit"),
    }
}

/// The pool against the memory of the machine, or of its control group.
#[cfg(target_os = "linux")]
fn pool(bytes: usize) -> Option<Diagnosis> {
    // `MemTotal:       16384000 kB`
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let machine: usize =
        info.lines().find_map(|line| line.strip_prefix("MemTotal:")?.strip_suffix("kB")?.trim().parse().ok())?;
    // `max` without a limit.
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    let memory = machine.saturating_mul(1 << 10).min(group.unwrap_or(usize::MAX));
    let text = format!("`max_local_cpu_size` has {}, of {} of memory", ByteSize(bytes), ByteSize(memory));
    if bytes as f64 > memory as f64 * POOL_SHARE {
        let advice =
            "lower `max_local_cpu_size` in the configuration: the system ends a process that uses up the memory";
        return Some(Diagnosis::warn("pool", text, advice));
    }
    Some(Diagnosis::ok("pool", text))
}

/// LMCache's engines hash tokens with Python's hash, which depends on a seed.
fn hash_seed() -> Diagnosis {
    let text = match std::env::var("PYTHONHASHSEED") {
        Ok(seed) => format!("`PYTHONHASHSEED` is `{seed}` here"),
        Err(_) => "`PYTHONHASHSEED` is not set here".to_owned(),
    };
    Diagnosis::ok("hash seed", format!("{text}; all engines that share chunks need the same value"))
}
