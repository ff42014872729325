//! Which platform an image is for, and which one is wanted.

use std::fmt;

use kfs_fs::oci::find;
use kfs_fs::oci::manifest::{ImageConfig, Platform};

/// A platform of which parts may be left open; those are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    os: String,
    architecture: String,
    variant: String,
}

/// Operating systems that stand alone in `--platform=linux`; another word alone is an architecture.
const SYSTEMS: [&str; 4] = ["linux", "windows", "darwin", "freebsd"];

impl Wanted {
    /// What `--platform` says: `os/architecture/variant`, of which one or two parts may lack.
    pub(super) fn parse(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        let mut parts = text.splitn(3, '/');
        let mut part = || parts.next().unwrap_or_default().to_owned();
        let (first, second, variant) = (part(), part(), part());
        if second.is_empty() && !SYSTEMS.contains(&first.as_str()) {
            return Self { architecture: first, ..Self::default() }.normalised();
        }
        Self { os: first, architecture: second, variant }.normalised()
    }

    /// What an image's config says.
    pub(super) fn of(config: &ImageConfig) -> Self {
        let variant = config.variant.clone().unwrap_or_default();
        let (os, architecture) = (config.os.clone(), config.architecture.clone());
        Self { os, architecture, variant }.normalised()
    }

    /// The same with what is left open as `target` has it, for who finds images; none if it is no
    /// platform.
    pub(super) fn in_full(&self, target: &Platform) -> Option<find::Wanted> {
        let or = |part: &str, default: &str| match part {
            "" => default.to_owned(),
            part => part.to_owned(),
        };
        let (os, architecture) =
            (or(&self.os, &target.os), or(&self.architecture, &target.architecture));
        let variant = match self.variant.as_str() {
            "" => String::new(),
            variant => format!("/{variant}"),
        };
        format!("{os}/{architecture}{variant}").parse().ok()
    }

    /// Whether an image for `found` will do. What an image does not say of itself is not held
    /// against it.
    pub(super) fn accepts(&self, found: &Self) -> bool {
        let same =
            |wanted: &str, found: &str| wanted.is_empty() || found.is_empty() || wanted == found;
        // Only for arm is a variant a promise that an image may not keep; for others it is a
        // hint of what would be faster.
        same(&self.os, &found.os)
            && same(&self.architecture, &found.architecture)
            && (self.architecture != "arm" || same(&self.variant, &found.variant))
    }

    /// With the names that Go, and so OCI, has for architectures (containerd's `platforms`).
    fn normalised(mut self) -> Self {
        let (architecture, variant) = match self.architecture.as_str() {
            "x86_64" | "x86-64" => ("amd64", None),
            "aarch64" => ("arm64", None),
            "i386" => ("386", None),
            "armhf" => ("arm", Some("v7")),
            "armel" => ("arm", Some("v6")),
            _ => return self,
        };
        self.architecture = architecture.to_owned();
        if let Some(variant) = variant {
            self.variant = variant.to_owned();
        }
        self
    }
}

impl From<&Platform> for Wanted {
    fn from(platform: &Platform) -> Self {
        let variant = platform.variant.clone().unwrap_or_default();
        let (os, architecture) = (platform.os.clone(), platform.architecture.clone());
        Self { os, architecture, variant }.normalised()
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [&self.os[..], &self.architecture, &self.variant];
        let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        f.write_str(&parts.join("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_is_compared_part_by_part() {
        for (wanted, found, accepts) in [
            ("linux/amd64", "linux/amd64", true),
            ("linux/amd64/v2", "linux/amd64", true),
            ("linux/x86_64", "linux/amd64", true),
            ("LINUX/amd64", "linux/amd64", true),
            ("linux", "linux/arm64", true),
            ("arm64", "linux/arm64/v8", true),
            ("aarch64", "linux/arm64", true),
            ("linux/arm64", "linux/arm", false),
            ("linux/arm", "linux/arm64", false),
            ("linux/arm/v7", "linux/arm/v6", false),
            ("linux/arm/v7", "linux/arm/v7", true),
            ("linux/armhf", "linux/arm/v7", true),
            ("windows/amd64", "linux/amd64", false),
            ("linux/amd64", "", true),
        ] {
            let ok = Wanted::parse(wanted).accepts(&Wanted::parse(found));
            assert_eq!(ok, accepts, "{wanted} {found}");
        }
        let target: Platform =
            serde_json::from_str(r#"{"os": "linux", "architecture": "amd64"}"#).unwrap();
        for (wanted, full) in [
            ("linux", Some("linux/amd64")),
            ("arm64", Some("linux/arm64")),
            ("linux/arm/v7", Some("linux/arm/v7")),
            ("windows/amd64", Some("windows/amd64")),
            ("linux/a b", None),
        ] {
            let found = Wanted::parse(wanted).in_full(&target);
            assert_eq!(found.map(|found| found.to_string()).as_deref(), full, "{wanted}");
        }
        assert_eq!(Wanted::parse("aarch64").to_string(), "arm64");
        assert_eq!(Wanted::parse("linux/arm/v7").to_string(), "linux/arm/v7");
    }
}
