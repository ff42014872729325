//! EXPOSE's ports in the form of the config: `80/tcp`, one key a port (Docker's `nat` package).

use super::ConfigError;

/// `[[IP:][HOST-PORT]:]PORT[-PORT][/PROTOCOL]` as keys of `ExposedPorts`. What stands before the
/// container's port has no place in an image and is dropped, as Docker does it.
pub(super) fn expand(text: &str) -> Result<impl Iterator<Item = String> + use<>, ConfigError> {
    let error = || ConfigError::Port(text.to_owned());
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(error());
    }
    let container = match published(text) {
        None => ports,
        Some((host, container)) => {
            if !host.is_empty() {
                range(host).ok_or_else(error)?;
            }
            container
        }
    };
    let (first, last) = range(container).ok_or_else(error)?;
    Ok((first..=last).map(move |port| format!("{port}/{protocol}")))
}

/// The ports of the host (which may be empty) and of the container of a text that publishes ports.
pub(crate) fn published(text: &str) -> Option<(&str, &str)> {
    let ports = text.split_once('/').map_or(text, |(ports, _)| ports);
    let (host, container) = ports.rsplit_once(':')?;
    Some((host.rsplit_once(':').map_or(host, |(_, port)| port), container))
}

/// The first and the last of `PORT[-PORT]`.
fn range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 && !text.starts_with('+') => Some(port),
        _ => None,
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some((first, last))
}
