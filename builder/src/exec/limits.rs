//! `--ulimit`: how much a command may take.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::Ulimit;
use super::wire::{Failure, OrFail};

/// Names as in limits.conf(5) and `docker run --ulimit`.
const NAMES: [(&str, Resource); 16] = [
    ("as", Resource::RLIMIT_AS),
    ("core", Resource::RLIMIT_CORE),
    ("cpu", Resource::RLIMIT_CPU),
    ("data", Resource::RLIMIT_DATA),
    ("fsize", Resource::RLIMIT_FSIZE),
    ("locks", Resource::RLIMIT_LOCKS),
    ("memlock", Resource::RLIMIT_MEMLOCK),
    ("msgqueue", Resource::RLIMIT_MSGQUEUE),
    ("nice", Resource::RLIMIT_NICE),
    ("nofile", Resource::RLIMIT_NOFILE),
    ("nproc", Resource::RLIMIT_NPROC),
    ("rss", Resource::RLIMIT_RSS),
    ("rtprio", Resource::RLIMIT_RTPRIO),
    ("rttime", Resource::RLIMIT_RTTIME),
    ("sigpending", Resource::RLIMIT_SIGPENDING),
    ("stack", Resource::RLIMIT_STACK),
];

/// Why a limit is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no limit: write NAME=SOFT[:HARD], like nofile=1024:4096; -1 is unlimited")]
pub struct UlimitError(String);

/// Reads `NAME=SOFT[:HARD]`; -1 is no limit.
pub fn parse_ulimit(text: &str) -> Result<Ulimit, UlimitError> {
    let bad = || UlimitError(text.to_owned());
    let (name, values) = text.split_once('=').ok_or_else(bad)?;
    if resource(name).is_none() {
        return Err(bad());
    }
    let value = |text: &str| match text {
        "-1" | "unlimited" => Ok(nix::libc::RLIM_INFINITY),
        number => number.parse().map_err(|_| bad()),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (value(soft)?, value(hard)?);
    if soft > hard {
        return Err(bad());
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

fn resource(name: &str) -> Option<Resource> {
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, resource)| *resource)
}

/// Sets limits for this process and all that it starts.
pub(super) fn set(limits: &[Ulimit]) -> Result<(), Failure> {
    for Ulimit { name, soft, hard } in limits {
        let resource = resource(name).ok_or(Errno::EINVAL).or_fail("find the limit", name)?;
        match setrlimit(resource, *soft, *hard) {
            // Raising the hard limit needs CAP_SYS_RESOURCE; as far as it goes is not enough.
            Err(Errno::EPERM) => {
                let (_, allowed) = getrlimit(resource).or_fail("read the limit", name)?;
                let text = format!("{name} to {hard} (at most {allowed} is allowed here)");
                return Err(Errno::EPERM).or_fail("set the limit", text);
            }
            other => other.or_fail("set the limit", name)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        let ulimit = |name: &str, soft, hard| Ulimit { name: name.to_owned(), soft, hard };
        assert_eq!(parse_ulimit("nofile=1:2"), Ok(ulimit("nofile", 1, 2)));
        assert_eq!(parse_ulimit("nproc=7"), Ok(ulimit("nproc", 7, 7)));
        assert_eq!(parse_ulimit("core=0:-1"), Ok(ulimit("core", 0, u64::MAX)));
        for bad in ["", "nofile", "nofile=", "x=1", "nofile=2:1", "nofile=a", "nofile=-2"] {
            assert!(parse_ulimit(bad).is_err(), "{bad}");
        }
    }
}
