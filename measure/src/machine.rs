//! What something is measured on.

use std::fs;
use std::path::Path;
use std::thread;

use kfs_fs::error::AtPath as _;
use serde::{Deserialize, Serialize};

use crate::MeasureError;

/// A machine, as a reader of figures needs to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// Name of the distribution.
    pub system: String,
    /// The kernel's version.
    pub kernel: String,
    /// The processor's name; empty where the kernel does not know it.
    pub processor: String,
    /// Processors that may be used.
    pub cores: usize,
    /// In bytes.
    pub memory: u64,
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str, separator: char| {
            let fields = text.lines().filter_map(|line| line.split_once(separator));
            let found = fields.into_iter().find(|(key, _)| key.trim() == name);
            found.map(|(_, value)| value.trim().trim_matches('"').to_owned()).unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal", ':');
        let kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        Self {
            system: field(&read("/etc/os-release"), "PRETTY_NAME", '='),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: field(&read("/proc/cpuinfo"), "model name", ':'),
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory: kib << 10,
        }
    }
}

/// Writes back what is not on disk yet, and forgets what is (proc_sys_vm(5)).
pub(crate) fn drop_caches() -> Result<(), MeasureError> {
    nix::unistd::sync();
    let path = Path::new("/proc/sys/vm/drop_caches");
    Ok(fs::write(path, "3").at("write", path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_kernel_and_memory() {
        let machine = Machine::this();
        assert!(machine.cores > 0 && machine.memory > 1 << 20 && !machine.kernel.is_empty());
    }
}
