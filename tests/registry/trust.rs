//! Whom the client trusts, and what it proves of itself: certificates, passwords, helpers, tokens.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use kfs_measure::proxy::{Proxy, Shape};

use crate::server::{Demands, Registry};

const TLS: Demands = Demands { auth: false, tls: true, client: false };

/// Where certificates for a registry lie.
fn certificates(registry: &Registry) -> PathBuf {
    let dirs = registry.path("home/.config/containers/certs.d");
    let dir = dirs.join(registry.address().to_string());
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn trust(registry: &Registry) {
    fs::copy(registry.path("ca.crt"), certificates(registry).join("ca.crt")).unwrap();
}

#[test]
fn a_certificate_has_to_be_vouched_for() {
    let Some(registry) = Registry::start_with(TLS) else { return };
    let (name, address) = (registry.name("a:1"), registry.address().to_string());
    let (code, error) = registry.fails("lazy", &["pull", &name]);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("not trusted") && error.contains(&address), "{error}");
    assert!(error.contains(&format!("certs.d/{address}/ca.crt")), "{error}");
    trust(&registry);
    let digest = registry.image("a:1");
    assert_eq!(registry.ok("pulled", &["pull", &name]).trim(), digest);
    let ca = certificates(&registry).join("ca.crt");
    fs::write(&ca, "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n").unwrap();
    let (_, error) = registry.fails("other", &["pull", &name]);
    assert!(error.contains(ca.to_str().unwrap()), "{error}");
    // Without trust, if the user wants that.
    fs::remove_file(ca).unwrap();
    let conf = registry.path("registries.conf");
    fs::write(&conf, format!("[[registry]]\nlocation = \"{address}\"\ninsecure = true\n")).unwrap();
    let mut pull = registry.command("other", &["pull", &name]);
    let pulled = pull.env("CONTAINERS_REGISTRIES_CONF", &conf).output().unwrap();
    assert!(pulled.status.success(), "{}", String::from_utf8_lossy(&pulled.stderr));
}

/// Has the registry show a certificate that is its own authority, and returns its path.
fn show_its_own(registry: &mut Registry, name: &str, days: i32) -> PathBuf {
    const SCRIPT: &str = "set -e
        printf 'basicConstraints=critical,CA:TRUE\nsubjectAltName=%s\n' $0 > own.ext
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=own \\
            -keyout server.key -out own.csr
        openssl x509 -req -in own.csr -signkey server.key -extfile own.ext -days $1 \\
            -out server.cert";
    let mut make = Command::new("sh");
    make.args(["-c", SCRIPT, name, &days.to_string()]).current_dir(registry.path("."));
    let made = make.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    registry.stop();
    registry.start_again();
    registry.path("server.cert")
}

#[test]
fn a_certificate_that_is_its_own_authority_is_trusted_by_itself() {
    let Some(mut registry) = Registry::start_with(TLS) else { return };
    let (name, ca) = (registry.name("a:1"), certificates(&registry).join("ca.crt"));
    let own = show_its_own(&mut registry, "IP:127.0.0.1", 2);
    fs::copy(own, &ca).unwrap();
    let digest = registry.image("a:1");
    assert_eq!(registry.ok("pulled", &["pull", &name]).trim(), digest);
    // Another one with the same names.
    show_its_own(&mut registry, "IP:127.0.0.1", 2);
    let refused = |registry: &Registry, why: &str| {
        let (code, error) = registry.fails("lazy", &["pull", &name]);
        assert!(code == 1 && error.contains("not trusted"), "{error}");
        assert!(error.contains(why) && error.contains("certs.d"), "no {why}: {error}");
    };
    refused(&registry, "CaUsedAsEndEntity");
    let own = show_its_own(&mut registry, "DNS:elsewhere.example", 2);
    fs::copy(own, &ca).unwrap();
    refused(&registry, "not valid for name");
    let own = show_its_own(&mut registry, "IP:127.0.0.1", -1);
    fs::copy(own, &ca).unwrap();
    refused(&registry, "Expired");
}

#[test]
fn a_certificate_is_trusted_without_its_authority() {
    let Some(registry) = Registry::start_with(TLS) else { return };
    let name = registry.name("a:1");
    let ca = certificates(&registry).join("ca.crt");
    // The authority vouches for both, but only one of them is trusted.
    fs::copy(registry.path("client.cert"), &ca).unwrap();
    let (_, error) = registry.fails("lazy", &["pull", &name]);
    assert!(error.contains("not trusted") && error.contains("UnknownIssuer"), "{error}");
    fs::copy(registry.path("server.cert"), &ca).unwrap();
    let digest = registry.image("a:1");
    assert_eq!(registry.ok("pulled", &["pull", &name]).trim(), digest);
}

#[test]
fn a_name_that_is_alike_does_not_hide_what_to_do() {
    let Some(registry) = Registry::start_with(TLS) else { return };
    let address = registry.address().to_string();
    fs::write(registry.path("x.tar"), [0; 1024]).unwrap();
    registry.ok("lazy", &["import", "x.tar", &registry.name("app:1")]);
    let (_, error) = registry.fails("lazy", &["ls", &registry.name("app:2")]);
    assert!(error.contains(&format!("did you mean {}", registry.name("app:1"))), "{error}");
    assert!(error.contains(&format!("certs.d/{address}/ca.crt")), "{error}");
}

#[test]
fn a_client_shows_its_certificate_to_the_registry_that_it_is_for() {
    let demands = Demands { client: true, ..TLS };
    let Some(registry) = Registry::start_with(demands) else { return };
    trust(&registry);
    let name = registry.name("a:1");
    let (code, error) = registry.fails("lazy", &["pull", "--read-timeout=1s", &name]);
    assert!(code == 1 && error.to_lowercase().contains("certificate"), "{error}");
    for file in ["client.cert", "client.key"] {
        fs::copy(registry.path(file), certificates(&registry).join(file)).unwrap();
    }
    let digest = registry.image("a:1");
    assert_eq!(registry.ok("pulled", &["pull", &name]).trim(), digest);
    fs::remove_file(certificates(&registry).join("client.key")).unwrap();
    let (_, error) = registry.fails("lazy", &["pull", &name]);
    assert!(error.contains("client.key"), "{error}");
}

#[test]
fn a_wrong_password_is_named_by_where_it_is_from() {
    let Some(registry) = Registry::start_with(Demands { auth: true, ..TLS }) else { return };
    trust(&registry);
    let address = registry.address().to_string();
    let (code, error) = registry.fails("lazy", &["pull", &registry.name("a:1")]);
    assert!(code == 1 && error.contains("no credentials were found"), "{error}");
    let wrong = registry.login_with(&address, "wrong", &[]);
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(!wrong.status.success() && said.contains(&address), "{said}");
    assert!(registry.login_with(&address, "secret", &[]).status.success());
    let digest = registry.image("a:1");
    assert_eq!(registry.ok("pulled", &["pull", &registry.name("a:1")]).trim(), digest);
    // What was right once: me:other.
    let auth = registry.path("auth.json");
    let text = fs::read_to_string(&auth).unwrap().replace("bWU6c2VjcmV0", "bWU6b3RoZXI=");
    fs::write(&auth, text).unwrap();
    let (code, error) = registry.fails("lazy", &["pull", &registry.name("a:1")]);
    assert_eq!(code, 1, "{error}");
    for part in [&address, auth.to_str().unwrap(), &format!("kfs login {address}")] {
        assert!(error.contains(part), "no {part}: {error}");
    }
}

/// A helper that keeps what it is given in a file; for one registry, or for all.
fn install_helper(registry: &Registry, host: Option<&str>) {
    const HELPER: &str = r#"#!/bin/sh
        file=$(dirname "$0")/secret
        case $1 in
        get) cat >/dev/null; cat "$file" 2>/dev/null && exit
             echo credentials not found in native keychain; exit 1;;
        store) cat >"$file";;
        erase) cat >/dev/null; rm "$file";;
        esac
    "#;
    fs::create_dir_all(registry.path("bin")).unwrap();
    let helper = registry.path("bin/docker-credential-test");
    fs::write(&helper, HELPER.trim_start()).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let auth = match host {
        Some(host) => format!("{{\"credHelpers\": {{\"{host}\": \"test\"}}}}"),
        None => "{\"credsStore\": \"test\"}".to_owned(),
    };
    fs::write(registry.path("auth.json"), auth).unwrap();
}

#[test]
fn a_helper_keeps_gives_and_forgets() {
    let Some(registry) = Registry::start(true) else { return };
    let address = registry.address().to_string();
    for host in [Some(address.as_str()), None] {
        install_helper(&registry, host);
        keeps_gives_and_forgets(&registry, &address);
    }
}

fn keeps_gives_and_forgets(registry: &Registry, address: &str) {
    let name = registry.name("a:1");
    let (_, error) = registry.fails("lazy", &["pull", &name]);
    assert!(error.contains("no credentials were found"), "{error}");
    assert!(registry.login(address, "secret").status.success());
    assert!(!fs::read_to_string(registry.path("auth.json")).unwrap().contains("bWU6"));
    let digest = registry.image("a:1");
    assert_eq!(registry.ok("pulled", &["pull", &name]).trim(), digest);
    let secret = registry.path("bin/secret");
    let kept = fs::read_to_string(&secret).unwrap();
    fs::write(&secret, kept.replace("\"secret\"", "\"wrong\"")).unwrap();
    let (_, error) = registry.fails("lazy", &["pull", &name]);
    assert!(error.contains("credential helper test"), "{error}");
    registry.ok("lazy", &["logout", address]);
    assert!(!secret.exists());
    // One that does not work is no reason to go on as nobody.
    fs::remove_file(registry.path("bin/docker-credential-test")).unwrap();
    let (_, error) = registry.fails("lazy", &["pull", &name]);
    assert!(error.contains("docker-credential-test"), "{error}");
}

#[test]
fn an_identity_token_is_turned_into_tokens() {
    let Some(registry) = Registry::start(false) else { return };
    let digest = registry.image("a:1");
    let proxy = Proxy::start("127.0.0.1:0", registry.address(), Shape::default()).unwrap();
    proxy.want_tokens(u32::MAX);
    let address = proxy.address().to_string();
    install_helper(&registry, Some(&address));
    let entry = r#"{"ServerURL": "x", "Username": "<token>", "Secret": "refresh"}"#;
    fs::write(registry.path("bin/secret"), entry).unwrap();
    let name = format!("{address}/a:1");
    assert_eq!(registry.ok("pulled", &["pull", "--plain-http", &name]).trim(), digest);
    assert!(!proxy.seen("POST /token").is_empty(), "by OAuth2, whose tokens need a POST");
    assert!(proxy.seen("GET /token").is_empty());
}
