//! The words that may begin a line.

use std::fmt;

#[cfg(doc)]
use super::*;

/// Every word that may begin a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keyword {
    /// See [`Add`].
    Add,
    /// See [`App`].
    App,
    /// See [`AppCmds`].
    Appcmds,
    /// See [`AppEnv`].
    Appenv,
    /// See [`Arg`].
    Arg,
    /// See [`Cmd`].
    Cmd,
    /// See [`Cmds`].
    Cmds,
    /// See [`App`].
    Cni,
    /// See [`Copy`](struct@Copy).
    Copy,
    /// See [`App`].
    Csi,
    /// See [`Entrypoint`].
    Entrypoint,
    /// See [`Env`].
    Env,
    /// See [`Expose`].
    Expose,
    /// See [`From`].
    From,
    /// See [`Healthcheck`].
    Healthcheck,
    /// See [`KubeVersion`].
    Kubeversion,
    /// See [`Label`].
    Label,
    /// See [`Launch`].
    Launch,
    /// See [`Maintainer`].
    Maintainer,
    /// See [`Onbuild`].
    Onbuild,
    /// See [`Run`].
    Run,
    /// See [`Shell`].
    Shell,
    /// See [`StopSignal`].
    Stopsignal,
    /// See [`User`].
    User,
    /// See [`Volume`].
    Volume,
    /// See [`Workdir`].
    Workdir,
}

impl Keyword {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Add,
        Self::App,
        Self::Appcmds,
        Self::Appenv,
        Self::Arg,
        Self::Cmd,
        Self::Cmds,
        Self::Cni,
        Self::Copy,
        Self::Csi,
        Self::Entrypoint,
        Self::Env,
        Self::Expose,
        Self::From,
        Self::Healthcheck,
        Self::Kubeversion,
        Self::Label,
        Self::Launch,
        Self::Maintainer,
        Self::Onbuild,
        Self::Run,
        Self::Shell,
        Self::Stopsignal,
        Self::User,
        Self::Volume,
        Self::Workdir,
    ];

    /// The word in upper case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::App => "APP",
            Self::Appcmds => "APPCMDS",
            Self::Appenv => "APPENV",
            Self::Arg => "ARG",
            Self::Cmd => "CMD",
            Self::Cmds => "CMDS",
            Self::Cni => "CNI",
            Self::Copy => "COPY",
            Self::Csi => "CSI",
            Self::Entrypoint => "ENTRYPOINT",
            Self::Env => "ENV",
            Self::Expose => "EXPOSE",
            Self::From => "FROM",
            Self::Healthcheck => "HEALTHCHECK",
            Self::Kubeversion => "KUBEVERSION",
            Self::Label => "LABEL",
            Self::Launch => "LAUNCH",
            Self::Maintainer => "MAINTAINER",
            Self::Onbuild => "ONBUILD",
            Self::Run => "RUN",
            Self::Shell => "SHELL",
            Self::Stopsignal => "STOPSIGNAL",
            Self::User => "USER",
            Self::Volume => "VOLUME",
            Self::Workdir => "WORKDIR",
        }
    }

    /// The flags that may stand after the word, without their `--`.
    pub const fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Add => {
                &["keep-git-dir", "checksum", "unpack", "chown", "chmod", "link", "exclude"]
            }
            Self::App | Self::Cni | Self::Csi => &["checksum"],
            Self::Copy => &["from", "chown", "chmod", "link", "parents", "exclude"],
            Self::From => &["platform"],
            Self::Healthcheck => {
                &["interval", "timeout", "start-period", "start-interval", "retries"]
            }
            Self::Run => &["mount", "network", "security"],
            _ => &[],
        }
    }

    /// Whether no Dockerfile knows the word.
    pub const fn is_of_kubefiles(self) -> bool {
        matches!(
            self,
            Self::App
                | Self::Appcmds
                | Self::Appenv
                | Self::Cmds
                | Self::Cni
                | Self::Csi
                | Self::Kubeversion
                | Self::Launch
        )
    }

    /// The keyword with this name, in any letter case.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|keyword| keyword.as_str().eq_ignore_ascii_case(word))
    }
}

impl fmt::Display for Keyword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
