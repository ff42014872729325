//! Which requests go by way of a proxy.

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;

use super::error::RegistryError;
use super::http::authority;

/// URLs of proxies, which may hold a name and password.
#[derive(Clone, Default)]
pub struct Proxies {
    /// For http.
    pub http: Option<String>,
    /// For https.
    pub https: Option<String>,
    /// Hosts that need none, as `NO_PROXY` lists them.
    pub no_proxy: Option<String>,
}

impl std::fmt::Debug for Proxies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let set = |proxy: &Option<String>| if proxy.is_some() { "set" } else { "none" };
        write!(f, "Proxies {{ http: {}, https: {} }}", set(&self.http), set(&self.https))
    }
}

impl Proxies {
    /// The proxy for a URL. No error holds its address as it was given: that may have a password.
    pub(super) fn of(&self, url: &Url) -> Result<Option<Url>, RegistryError> {
        let scheme = url.scheme();
        let proxy = if scheme == "http" { &self.http } else { &self.https };
        let Some(proxy) = proxy.as_ref().filter(|_| !self.spares(url)) else { return Ok(None) };
        let wrong = |what: &str| RegistryError::SetUp(format!("the proxy for {scheme} {what}"));
        // As curl has it, one without a scheme speaks http.
        let proxy = match proxy.contains("://") {
            true => Url::parse(proxy),
            false => Url::parse(&format!("http://{proxy}")),
        };
        let proxy = proxy.map_err(|error| wrong(&format!("is no URL ({error})")))?;
        match proxy.scheme() {
            "http" | "https" => Ok(Some(proxy)),
            other => Err(wrong(&format!("is of the kind {other}, only http and https are known"))),
        }
    }

    /// Whether no proxy is wanted for a URL.
    fn spares(&self, url: &Url) -> bool {
        let Some(list) = &self.no_proxy else { return false };
        let others = Matcher::builder().all("http://proxy.invalid").no(list.as_str()).build();
        url.as_str().parse().is_ok_and(|uri| others.intercept(&uri).is_none())
    }
}

/// A proxy as it may be shown.
pub(super) fn shown(proxy: &Url) -> String {
    format!("proxy {}", authority(proxy))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(http: &str, https: &str, no_proxy: &str) -> Proxies {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Proxies { http: some(http), https: some(https), no_proxy: some(no_proxy) }
    }

    #[test]
    fn the_scheme_says_which_and_the_list_for_what_none() {
        let list = "localhost, .corp.test,10.0.0.0/8,::1,one.test";
        let proxies = proxies("p.test:3128", "http://me:secret@q.test:8080", list);
        let of = |url: &str| proxies.of(&url.parse().unwrap()).unwrap().map(|it| shown(&it));
        for (url, proxy) in [
            ("http://a.test/", Some("proxy p.test:3128")),
            ("https://a.test/", Some("proxy q.test:8080")),
            ("https://a.test:444/v2/", Some("proxy q.test:8080")),
            ("https://notone.test/", Some("proxy q.test:8080")),
            ("https://11.0.0.1/", Some("proxy q.test:8080")),
            ("https://one.test/", None),
            ("https://sub.one.test:5000/", None),
            ("http://corp.test/", None),
            ("http://hub.corp.test/", None),
            ("http://localhost:5000/", None),
            ("http://10.1.2.3:5000/", None),
            ("http://[::1]:5000/", None),
        ] {
            assert_eq!(of(url).as_deref(), proxy, "{url}");
        }
        let all: Url = "https://a.test/".parse().unwrap();
        assert!(self::proxies("", "q.test", "*").of(&all).unwrap().is_none());
        assert!(self::proxies("p.test", "", "").of(&all).unwrap().is_none());
    }

    #[test]
    fn what_cannot_be_used_is_told_without_its_password() {
        let url: Url = "https://a.test/".parse().unwrap();
        for (proxy, what) in [
            ("socks5://me:secret@p.test", "the proxy for https is of the kind socks5"),
            ("http://me:secret@p.test:x", "the proxy for https is no URL"),
            ("http://", "the proxy for https is no URL"),
        ] {
            let error = proxies("", proxy, "").of(&url).unwrap_err().to_string();
            assert!(error.contains(what) && !error.contains("secret"), "{error}");
        }
        // Nobody asks it.
        let spared: Url = "https://localhost/".parse().unwrap();
        assert!(proxies("", "socks5://p.test", "localhost").of(&spared).unwrap().is_none());
    }
}
