//! EXPOSE's ports in the form of the config: `80/tcp`, one key a port (Docker's `nat` package).

use super::ConfigError;

/// `PORT[-PORT][/PROTOCOL]` as keys of `ExposedPorts`.
pub(super) fn expand(text: &str) -> Result<impl Iterator<Item = String> + use<>, ConfigError> {
    let error = || ConfigError::Port(text.to_owned());
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(error());
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 && !text.starts_with('+') => Ok(port),
        _ => Err(error()),
    };
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(error());
    }
    Ok((first..=last).map(move |port| format!("{port}/{protocol}")))
}
