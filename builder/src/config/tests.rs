use super::*;
use crate::copy::SourceKind;
use crate::kubefile::Kubefile;
use kfs_fs::digest::Digest;

/// Applies statements without variables to `base`.
fn applied(base: ImageConfig, dialect: Dialect, lines: &str) -> Result<ImageConfig, ConfigError> {
    let file = Kubefile::parse("f", format!("FROM x\n{lines}").as_bytes(), dialect).unwrap();
    let mut stage = StageConfig::new(base, dialect);
    for statement in &file.statements {
        stage.apply(&statement.instruction)?;
    }
    Ok(stage.into_image())
}

fn dockerfile(lines: &str) -> ContainerConfig {
    applied(ImageConfig::default(), Dialect::Dockerfile, lines).unwrap().config
}

fn strings(items: &[&str]) -> Option<Vec<String>> {
    Some(items.iter().map(|s| (*s).to_owned()).collect())
}

#[test]
fn env_replaces_in_place() {
    let config = dockerfile("ENV A=1 B=2\nENV PATH=/x\nENV A=3 C=4");
    assert_eq!(config.env, ["PATH=/x", "A=3", "B=2", "C=4"]);
    let default = dockerfile("ENV PATHS=1").env;
    assert_eq!(default, [format!("PATH={DEFAULT_PATH}"), "PATHS=1".to_owned()]);
}

#[test]
fn workdir_joins_and_cleans() {
    for (lines, dir) in [
        ("WORKDIR /a\nWORKDIR b", "/a/b"),
        ("WORKDIR a", "/a"),
        ("WORKDIR /a\nWORKDIR ../../b/./c/", "/b/c"),
        ("WORKDIR /a\nWORKDIR /", "/"),
    ] {
        assert_eq!(dockerfile(lines).working_dir, dir, "{lines}");
    }
}

#[test]
fn dockerfile_commands() {
    let config = dockerfile("CMD a\nSHELL [\"/bin/bash\",\"-ec\"]\nENTRYPOINT e f\nCMD b");
    assert_eq!(config.entrypoint, strings(&["/bin/bash", "-ec", "e f"]));
    assert_eq!(config.cmd, strings(&["/bin/bash", "-ec", "b"]));
    assert_eq!(config.extra["Shell"], serde_json::json!(["/bin/bash", "-ec"]));
    assert_eq!(dockerfile("CMD x").cmd, strings(&["/bin/sh", "-c", "x"]));
    assert_eq!(dockerfile("CMD x\nCMD []").cmd, None);
}

#[test]
fn entrypoint_drops_only_an_inherited_cmd() {
    let base = || {
        let mut base = ImageConfig::default();
        base.config.cmd = strings(&["inherited"]);
        base
    };
    for dialect in [Dialect::Dockerfile, Dialect::Kubefile] {
        let cmd = |lines| applied(base(), dialect, lines).unwrap().config.cmd;
        assert_eq!(cmd("ENTRYPOINT [\"e\"]"), None);
        assert_eq!(cmd("CMD [\"c\"]\nENTRYPOINT [\"e\"]"), strings(&["c"]));
        assert_eq!(cmd("USER 1"), strings(&["inherited"]));
    }
}

#[test]
fn kubefile_commands_are_shell_lines_and_add_up() {
    let mut base = ImageConfig::default();
    base.config.cmd = strings(&["inherited"]);
    let lines = "CMD kubectl apply -f a.yaml, b\nCMD [\"x y\", \"z\"]\nENTRYPOINT sh init.sh";
    let config = applied(base, Dialect::Kubefile, lines).unwrap().config;
    assert_eq!(config.cmd, strings(&["kubectl apply -f a.yaml, b", "x y", "z"]));
    assert_eq!(config.entrypoint, strings(&["sh init.sh"]));
}

#[test]
fn sets_are_sorted_and_added_to() {
    let mut base = ImageConfig::default();
    base.config.extra.insert("ExposedPorts".into(), serde_json::json!({"99/tcp": {}}));
    base.config.extra.insert("Volumes".into(), Value::Null);
    let lines = "EXPOSE 80 8081:81/UDP 127.0.0.1::90-92 [::1]:7:93\nVOLUME /v /a\nVOLUME [\"/j k\"]\nSTOPSIGNAL 9";
    let extra = applied(base, Dialect::Dockerfile, lines).unwrap().config.extra;
    let keys = |field: &str| -> Vec<String> {
        extra[field].as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(
        keys("ExposedPorts"),
        ["80/tcp", "81/udp", "90/tcp", "91/tcp", "92/tcp", "93/tcp", "99/tcp"]
    );
    assert_eq!(keys("Volumes"), ["/a", "/j k", "/v"]);
    assert_eq!(extra["StopSignal"], "9");
}

#[test]
fn bad_values_are_refused() {
    for lines in [
        "EXPOSE 0",
        "EXPOSE 65536",
        "EXPOSE 80/http",
        "EXPOSE 9-8",
        "EXPOSE 1:",
        "EXPOSE a:2",
        "EXPOSE 1:2:x",
        "EXPOSE +1",
        "EXPOSE -1",
        "STOPSIGNAL 0",
        "STOPSIGNAL 65",
        "STOPSIGNAL SIGNOTHING",
        "STOPSIGNAL RTMIN+31",
    ] {
        assert!(applied(ImageConfig::default(), Dialect::Dockerfile, lines).is_err(), "{lines}");
    }
    for signal in ["SIGTERM", "term", "SIGRTMIN+3", "RTMAX-30", "64"] {
        dockerfile(&format!("STOPSIGNAL {signal}"));
    }
}

#[test]
fn what_the_base_says_of_itself_goes() {
    let text = r#"{"architecture":"amd64","os":"linux","container_config":{"Cmd":["x"]},
        "docker_version":"20","config":{"OnBuild":[],"Healthcheck":{"Test":["NONE"]}},
        "rootfs":{"type":"layers","diff_ids":[]}}"#;
    let base: ImageConfig = serde_json::from_str(text).unwrap();
    let image = applied(base, Dialect::Dockerfile, "MAINTAINER me <m@x>\nUSER 1:2").unwrap();
    assert_eq!(image.author.as_deref(), Some("me <m@x>"));
    assert_eq!(image.config.user, "1:2");
    assert!(image.extra.is_empty());
    assert_eq!(image.config.extra.keys().collect::<Vec<_>>(), ["Healthcheck"]);
}

#[test]
fn history_texts() {
    let shell = DEFAULT_SHELL.map(str::to_owned);
    let args = [("V".to_owned(), "1".to_owned()), ("B".to_owned(), "x y".to_owned())];
    assert_eq!(history::config_only("ENV A=b C=\"d e\""), "/bin/sh -c #(nop) ENV A=b C=\"d e\"");
    let line = Command::Shell("touch /a$V && echo".to_owned());
    assert_eq!(history::run(&line, &shell, &[]), "/bin/sh -c touch /a$V && echo");
    assert_eq!(history::run(&line, &shell, &args), "|2 B=x y V=1 /bin/sh -c touch /a$V && echo");
    let exec = Command::Exec(vec!["/bin/touch".into(), "/c".into()]);
    assert_eq!(history::run(&exec, &shell, &args[..1]), "|1 V=1 /bin/touch /c");
    let digest = Digest::of(b"");
    assert_eq!(
        history::copy("COPY", SourceKind::Directory, &digest, "/n1"),
        format!("/bin/sh -c #(nop) COPY dir:{} in /n1 ", digest.hex())
    );
}

#[test]
fn checks_and_triggers_are_stored_as_docker_has_them() {
    let config = dockerfile(
        "HEALTHCHECK --interval=5m --timeout=1.5s --retries=3 CMD curl -f x\n\
         ONBUILD RUN a\nONBUILD COPY <<E /x\ntext\nE",
    );
    let check = serde_json::json!({
        "Test": ["CMD-SHELL", "curl -f x"],
        "Interval": 300_000_000_000_u64,
        "Timeout": 1_500_000_000_u64,
        "Retries": 3
    });
    assert_eq!(config.extra["Healthcheck"], check);
    let triggers = serde_json::json!(["RUN a", "COPY <<E /x\ntext\nE"]);
    assert_eq!(config.extra["OnBuild"], triggers);
    let config = dockerfile("HEALTHCHECK CMD [\"a\", \"b\"]");
    assert_eq!(config.extra["Healthcheck"], serde_json::json!({ "Test": ["CMD", "a", "b"] }));
    let config = dockerfile("HEALTHCHECK CMD a\nHEALTHCHECK NONE");
    assert_eq!(config.extra["Healthcheck"], serde_json::json!({ "Test": ["NONE"] }));
}

#[test]
fn words_of_kubefiles_become_labels() {
    let lines =
        "CNI flannel local://f\nCNI calico local://c\nCSI x local://x\nKUBEVERSION 1.22 - 1.24";
    let config = applied(ImageConfig::default(), Dialect::Kubefile, lines).unwrap();
    let labels = &config.config.labels;
    for (label, value) in [
        ("cluster.alpha.sealer.io/kube-cni-flannel", "true"),
        ("cluster.alpha.sealer.io/kube-cni-calico", "true"),
        ("cluster.alpha.sealer.io/kube-csi-x", "true"),
        ("app.alpha.sealer.io/supported-kube-version", "1.22 - 1.24"),
    ] {
        assert_eq!(labels.get(label).map(|value| &value[..]), Some(value), "{label}");
    }
    let child = applied(config.clone(), Dialect::Kubefile, "KUBEVERSION >=1.23").unwrap();
    let label = "app.alpha.sealer.io/supported-kube-version";
    assert_eq!(child.config.labels[label], ">=1.23.0 <1.25.0");
    let error = applied(config.clone(), Dialect::Kubefile, "KUBEVERSION 1.25").unwrap_err();
    assert!(error.to_string().contains("is in 1.25 and in 1.22 - 1.24"), "{error}");
    // Sealer takes anything.
    let mut garbage = config;
    garbage.config.labels.insert(label.to_owned(), "newest".to_owned());
    let child = applied(garbage, Dialect::Kubefile, "KUBEVERSION 1.25").unwrap();
    assert_eq!(child.config.labels[label], "1.25");
}
