//! EAL's arguments: what the operator gave, and what follows from the rest of the configuration.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use dpdk_rs::Eal;

use super::Error;
use crate::config::{self, Config};

/// Megabytes for what isn't packet buffers.
const BASE_MEMORY_MB: u64 = 64;
/// Octets of a packet buffer with its mbuf and the pool's overhead.
const MBUF_OCTETS: u64 = 2560;

/// Octets of an SA's session on a crypto device, about, and of an operation with its descriptor.
const SESSION_OCTETS: u64 = 4096;
const OPERATION_OCTETS: u64 = 1024;

/// Octets of a usual packet buffer, headroom included: a frame of 1,518 octets with room to spare.
pub(super) const DATA_ROOM: u16 = 2048 + dpdk_rs::HEADROOM;
/// Buffers of the pool for packets that don't fit one of the usual kind: jumbo frames, reassembled datagrams.
pub(super) const BIG_MBUFS: u32 = 255;
/// Octets of such a buffer: as many as an mbuf can tell.
pub(super) const BIG_DATA_ROOM: u16 = u16::MAX;

/// How the names of our runtime directories begin.
const FILE_PREFIX: &str = "nf-core-";

fn memory_mb(mbufs: u32, workers: usize, crypto: &config::Crypto) -> u64 {
    let pools = u64::from(mbufs) * MBUF_OCTETS + u64::from(BIG_MBUFS) * u64::from(BIG_DATA_ROOM);
    let device = crypto.device.as_ref().map_or(0, |device| {
        u64::from(device.sessions) * SESSION_OCTETS + u64::from(device.depth) * workers as u64 * OPERATION_OCTETS
    });
    (pools + device).div_ceil(1 << 20) + BASE_MEMORY_MB
}

/// For one pass over a capture: no hugepages, no devices, no files, no privileges.
pub(super) fn replay_args(config: &Config) -> Vec<String> {
    let memory = memory_mb(config.eal.mbufs, 1, &config.crypto).to_string();
    let cpus = allowed_cpus();
    let lcore = format!("--lcores=0@({cpus})");
    ["--no-huge", "-m", &memory, "--no-pci", "--no-shconf", "--no-telemetry", &lcore, "--log-level=*:warning"]
        .map(str::to_owned)
        .to_vec()
}

/// For the daemon. The main lcore, which does the control thread's work, floats over all CPUs; each worker has one.
pub(super) fn daemon_args(eal: &config::Eal, crypto: &config::Crypto, socket: &Path) -> Result<Vec<String>, Error> {
    let given = |names: &[&str]| {
        eal.args.iter().any(|arg| names.iter().any(|name| arg == name || arg.starts_with(&format!("{name}="))))
    };
    let mut args = vec!["--log-level=*:warning".to_owned()];
    if given(&["-l", "-c", "--lcores", "--main-lcore"]) {
        let problem = "[eal] args: leave out -l, -c, --lcores and --main-lcore; `[eal] cores` says where workers run";
        return Err(Error::Unusable(problem.to_owned()));
    }
    let cpus = allowed_cpus();
    let mut lcores = format!("--lcores=0@({cpus})");
    for (worker, cpu) in eal.cores.iter().enumerate() {
        if !contains(&cpus, *cpu) {
            let problem = format!("[eal] cores: CPU {cpu} isn't one that this process may run on ({cpus})");
            return Err(Error::Unusable(problem));
        }
        lcores += &format!(",{}@{cpu}", worker + 1);
    }
    args.push(lcores);
    args.push("--main-lcore=0".to_owned());

    let no_huge = given(&["--no-huge"]);
    if no_huge || (!hugepages() && !given(&["--in-memory", "--huge-dir", "--socket-mem"])) {
        if !no_huge {
            tracing::warn!("there are no hugepages: going on without (--no-huge), which is slower");
            args.push("--no-huge".to_owned());
        }
        if !given(&["--no-shconf"]) {
            args.push("--no-shconf".to_owned());
        }
        if !given(&["-m"]) {
            args.extend(["-m".to_owned(), memory_mb(eal.mbufs, eal.cores.len(), crypto).to_string()]);
        }
    } else if !given(&["--in-memory", "--file-prefix", "--huge-dir", "--huge-unlink"]) {
        // Nothing stays behind in /run/dpdk and in hugetlbfs, however the process ends.
        args.push("--in-memory".to_owned());
    }
    if !given(&["--file-prefix"]) {
        // A directory of its own: one that ends removes it, which must not be under the feet of one that starts. As no
        // two share a control socket, no two share this; and what one leaves that is killed, the next takes over.
        let mut hasher = DefaultHasher::new();
        socket.hash(&mut hasher);
        args.push(format!("--file-prefix={FILE_PREFIX}{:016x}", hasher.finish()));
    }
    args.extend(eal.args.iter().cloned());
    Ok(args)
}

/// Ends EAL once all of its objects are gone, and removes what it has left in the file system.
pub(super) fn shut_down(eal: Eal) {
    if let Err(error) = eal.cleanup() {
        tracing::warn!(%error, "DPDK's environment could not be cleaned up; the kernel takes its memory back");
    }
    let directory = eal.runtime_dir();
    if directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with(FILE_PREFIX)) {
        // In a directory of ours: DPDK removes the socket when the process ends, too late for the directory.
        let _ = std::fs::remove_file(directory.join("dpdk_telemetry.v2"));
    }
    // EAL makes a directory even where it has nothing to put there, and leaves it; another instance's files keep it.
    let _ = std::fs::remove_dir(directory);
}

/// The CPUs that this process may run on, in the kernel's notation, such as `0-3,6`.
fn allowed_cpus() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.map_or_else(|| "0".to_owned(), |list| list.trim().to_owned())
}

fn contains(list: &str, cpu: u16) -> bool {
    list.split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        matches!((first.parse(), last.parse()), (Ok(first), Ok(last)) if (first..=last).contains(&cpu))
    })
}

fn hugepages() -> bool {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = memory.lines().find_map(|line| line.strip_prefix("HugePages_Total:"));
    total.is_some_and(|total| total.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_understood() {
        assert!(contains("0-3,6", 2) && contains("0-3,6", 6) && contains("5", 5));
        assert!(!contains("0-3,6", 4) && !contains("", 0));
    }

    #[test]
    fn what_contradicts_the_configuration_is_refused() {
        let eal = config::Eal { args: vec!["-l".into(), "0".into()], ..config::Eal::default() };
        assert!(
            daemon_args(&eal, &config::Crypto::default(), Path::new("nf.sock"))
                .unwrap_err()
                .to_string()
                .contains("leave out -l")
        );
        let eal = config::Eal { cores: vec![1000], ..config::Eal::default() };
        assert!(
            daemon_args(&eal, &config::Crypto::default(), Path::new("nf.sock"))
                .unwrap_err()
                .to_string()
                .contains("CPU 1000 isn't one")
        );
    }

    #[test]
    fn without_hugepages_nothing_is_left_behind() {
        let eal = config::Eal { args: vec!["--no-huge".into(), "-m".into(), "99".into()], ..config::Eal::default() };
        let args = daemon_args(&eal, &config::Crypto::default(), Path::new("nf.sock")).unwrap();
        assert!(args.contains(&"--no-shconf".to_owned()), "{args:?}");
        assert_eq!(args.iter().filter(|arg| *arg == "-m").count(), 1, "{args:?}");
    }
}
