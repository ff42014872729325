use super::*;
use crate::kubefile::{Add, Source};

fn platform(architecture: &str, variant: Option<&str>) -> Platform {
    Platform {
        architecture: architecture.to_owned(),
        os: "linux".to_owned(),
        variant: variant.map(str::to_owned),
        extra: Default::default(),
    }
}

fn options(target: &Platform) -> Options {
    Options {
        build_args: Vec::new(),
        copy_rule: None,
        target: target.clone(),
        build: target.clone(),
        stage: None,
        contexts: Vec::new(),
        images: Default::default(),
    }
}

fn plan_with(
    dialect: Dialect,
    text: &str,
    build_args: &[(&str, &str)],
) -> Result<Plan, KubefileError> {
    let file = Kubefile::parse("f", text.as_bytes(), dialect)?;
    let pair = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    let options = Options {
        build_args: build_args.iter().map(pair).collect(),
        copy_rule: None,
        target: platform("arm64", Some("v8")),
        build: platform("amd64", None),
        stage: None,
        contexts: vec!["ctx".to_owned()],
        images: Default::default(),
    };
    Plan::new(file, options)
}

fn plan(text: &str) -> Plan {
    plan_with(Dialect::Dockerfile, text, &[]).unwrap()
}

fn base_name(text: &str, build_args: &[(&str, &str)]) -> String {
    match plan_with(Dialect::Dockerfile, text, build_args).unwrap().stages()[0].base() {
        Base::Scratch => "scratch".to_owned(),
        Base::Image { name, platform: None } => name.clone(),
        Base::Image { name, platform: Some(platform) } => format!("{platform} {name}"),
        other => panic!("{other:?}"),
    }
}

/// The value of `R` in `ENV R=...` at the end of a stage.
fn env(text: &str, build_args: &[(&str, &str)]) -> String {
    let plan = plan_with(Dialect::Dockerfile, text, build_args).unwrap();
    let mut base = ImageConfig::default();
    base.config.env.push("BASE=from-base".to_owned());
    match plan.expand(0, &base, None).unwrap().steps.pop().unwrap().instruction {
        Instruction::Env(env) => env.pairs[0].value.clone(),
        other => panic!("{other:?}"),
    }
}

fn steps(plan: &Plan) -> Result<Vec<Step>, KubefileError> {
    Ok(plan.expand(0, &ImageConfig::default(), None)?.steps)
}

fn step_error(dialect: Dialect, text: &str) -> KubefileError {
    steps(&plan_with(dialect, text, &[]).unwrap()).expect_err(text)
}

#[test]
fn the_base_is_expanded() {
    assert_eq!(base_name("FROM scratch", &[]), "scratch");
    assert_eq!(base_name("FROM --platform=linux/386 scratch", &[]), "scratch");
    assert_eq!(base_name("ARG B=a\nARG T=$B-1\nFROM ${B}:$T", &[]), "a:a-1");
    assert_eq!(base_name("ARG B=a\nFROM $B", &[("B", "x"), ("B", "y")]), "y");
    assert_eq!(
        base_name("FROM --platform=$BUILDPLATFORM x:$TARGETARCH", &[]),
        "linux/amd64 x:arm64"
    );
    assert_eq!(base_name("FROM --platform=$TARGETPLATFORM x", &[]), "linux/arm64/v8 x");
    let error = plan_with(Dialect::Dockerfile, "FROM $B", &[]).unwrap_err();
    assert!(error.to_string().starts_with("f:1: $B is empty"), "{error}");
}

#[test]
fn values_by_scope() {
    for (text, build_args, expected) in [
        ("ARG A=1\nFROM x\nENV R=$A", &[][..], ""),
        ("ARG A=1\nFROM x\nARG A\nENV R=$A", &[], "1"),
        ("ARG A=1\nFROM x\nARG A=2\nENV R=$A", &[], "2"),
        ("ARG A=1\nFROM x\nARG A=2\nENV R=$A", &[("A", "3")], "3"),
        ("FROM x\nENV R=$A", &[("A", "3")], ""),
        ("FROM x\nARG A=1\nARG A=$A$A\nENV R=$A", &[], "11"),
        ("FROM x\nARG A=1 B=$A\nENV R=$B", &[], ""),
        // An ARG without a default keeps the value of an earlier one.
        ("FROM x\nARG A=1\nARG A\nENV R=$A", &[], "1"),
        ("ARG A=0\nFROM x\nARG A=1\nARG A\nENV R=$A", &[], "0"),
        // A default that is not needed is not looked at.
        ("FROM x\nARG A=${B:?none}\nENV R=$A", &[("A", "3")], "3"),
        ("ARG A=${B:?none}\nFROM x\nARG A\nENV R=$A", &[("A", "3")], "3"),
        ("FROM x\nARG A=1\nENV A=e\nENV R=$A", &[("A", "2")], "e"),
        ("FROM x\nENV A=e\nARG A=1\nENV R=$A", &[], "e"),
        ("FROM x\nARG BASE=1\nENV R=$BASE", &[("BASE", "2")], "from-base"),
        ("FROM x\nENV R=$TARGETARCH", &[], ""),
        ("FROM x\nARG TARGETARCH\nENV R=$TARGETARCH", &[], "arm64"),
        ("FROM x\nARG TARGETVARIANT BUILDARCH\nENV R=$TARGETVARIANT-$BUILDARCH", &[], "v8-amd64"),
        ("FROM x\nARG TARGETARCH\nENV R=$TARGETARCH", &[("TARGETARCH", "z")], "z"),
        ("FROM x\nENV R=$HTTP_PROXY", &[("HTTP_PROXY", "p")], ""),
        ("FROM x\nENV R='$BASE'", &[], "$BASE"),
        // All pairs of a line see the values before the line.
        ("FROM x\nENV A=1\nENV R=$A A=2", &[], "1"),
    ] {
        assert_eq!(env(text, build_args), expected, "{text}");
    }
}

#[test]
fn what_is_expanded_and_what_is_not() {
    let text = "FROM x\nARG A=v P=\"1 2\"\nLABEL $A=$A\nUSER $A\nEXPOSE $P 3\nVOLUME /$A\n\
                WORKDIR $A\nSTOPSIGNAL ${S:-9}\nCOPY --chown=$A $A* <<$A <<'q' d$A/\n\"$A\"\\$A\n$A\n\
                $A\nq\nRUN $A\nCMD $A\nENTRYPOINT [\"$A\"]\nMAINTAINER $A";
    let steps = steps(&plan(text)).unwrap();
    let of = |at: usize| format!("{:?}", steps[at].instruction);
    assert!(of(1).contains("key: \"v\", value: \"v\""), "{}", of(1));
    assert!(of(2).contains("user: \"v\""));
    assert!(of(3).contains("[\"1\", \"2\", \"3\"]"), "{}", of(3));
    assert!(of(4).contains("/v"));
    assert!(of(5).contains("path: \"v\""));
    assert!(of(6).contains("\"9\""));
    let Instruction::Copy(copy) = &steps[7].instruction else { panic!() };
    assert_eq!((copy.chown.as_deref(), copy.dest.as_str()), (Some("v"), "dv/"));
    let inline = |source: &Source| match source {
        Source::Inline(heredoc) => heredoc.content.clone(),
        Source::Path(path) => path.clone(),
    };
    let sources: Vec<String> = copy.sources.iter().map(inline).collect();
    assert_eq!(sources, ["v*", "\"v\"$A\n", "$A\n"]);
    for at in 8..12 {
        assert!(of(at).contains("$A"), "{}", of(at));
    }
}

#[test]
fn a_kubefile_expands_args_in_cmd_and_arch_in_copy() {
    let text = "FROM x\nARG V=1\nARG E=2\nENV E=3\nCMD kubectl apply -f m-${V}.yaml $E $(id) '$V'\n\
                CMD [\"a $V\", \"b\"]\nCOPY ${ARCH}/bin bin";
    let plan = plan_with(Dialect::Kubefile, text, &[("V", "4")]).unwrap();
    assert_eq!(plan.copy_rule(), CopyRule::Kubefile);
    let steps = steps(&plan).unwrap();
    let Instruction::Cmd(cmd) = &steps[3].instruction else { panic!() };
    let line = "kubectl apply -f m-4.yaml $E $(id) '$V'";
    assert_eq!(cmd.command, Command::Shell(line.to_owned()));
    let Instruction::Cmd(cmd) = &steps[4].instruction else { panic!() };
    assert_eq!(cmd.command, Command::Exec(vec!["a 4".to_owned(), "b".to_owned()]));
    let Instruction::Copy(copy) = &steps[5].instruction else { panic!() };
    assert_eq!(copy.sources, [Source::Path("arm64/bin".to_owned())]);
    let docker = plan_with(Dialect::Dockerfile, "FROM x\nCOPY a${ARCH} b", &[]).unwrap();
    assert_eq!(docker.copy_rule(), CopyRule::Docker);
    let Instruction::Copy(copy) = &self::steps(&docker).unwrap()[0].instruction else { panic!() };
    assert_eq!(copy.sources, [Source::Path("a".to_owned())]);
}

#[test]
fn steps_are_counted() {
    let plan = plan("ARG A\nFROM x\nCOPY a b\nENV c=d\nRUN e");
    let found: Vec<_> =
        steps(&plan).unwrap().into_iter().map(|s| (s.index, s.total, s.text)).collect();
    let expected = [(2, 4, "COPY a b"), (3, 4, "ENV c=d"), (4, 4, "RUN e")];
    assert_eq!(found, expected.map(|(i, t, text)| (i, t, text.to_owned())));
}

#[test]
fn stages_are_found_by_name_and_number() {
    let text = "FROM a AS One\nFROM one AS two\nFROM ctx\nFROM 0 AS one\nFROM --platform=x ONE";
    let bases = |plan: &Plan| plan.stages().iter().map(|s| s.base().clone()).collect::<Vec<_>>();
    let image = |name: &str| Base::Image { name: name.to_owned(), platform: None };
    let context = Base::Context("ctx".to_owned());
    let expected = [image("a"), Base::Stage(0), context, image("0"), Base::Stage(3)];
    assert_eq!(bases(&plan(text)), expected);
    let target = |wanted: &str| {
        let file = Kubefile::parse("f", text.as_bytes(), Dialect::Dockerfile).unwrap();
        let stage = Some(wanted.to_owned());
        Plan::new(file, Options { stage, ..options(&platform("arm64", None)) })
            .map(|plan| plan.target())
    };
    assert_eq!(plan(text).target(), 4);
    assert_eq!(target("TWO").unwrap(), 1);
    assert_eq!(target("one").unwrap(), 3);
    assert_eq!(target("2").unwrap(), 2);
    let error = target("three").unwrap_err().to_string();
    assert!(error.contains("no stage three") && error.contains("one, two, one"), "{error}");
    assert!(target("5").is_err());
}

#[test]
fn a_stage_on_a_stage_knows_its_args_and_config() {
    let plan =
        plan("FROM x AS a\nARG V=1\nENV E=2\nCMD [\"c\"]\nFROM a\nENV R=$V$E\nENTRYPOINT [\"e\"]");
    let first = plan.expand(0, &ImageConfig::default(), None).unwrap();
    let second = plan.expand(1, &first.config, Some(&first)).unwrap();
    let Instruction::Env(env) = &second.steps[0].instruction else { panic!() };
    assert_eq!(env.pairs[0].value, "12");
    assert_eq!(second.config.config.cmd, None, "it was made for the other ENTRYPOINT");
}

#[test]
fn there_is_an_end_of_stages() {
    let text = "FROM x\n".repeat(251);
    let error = plan_with(Dialect::Dockerfile, &text, &[]).unwrap_err();
    assert_eq!(error.location.first, 251, "{error}");
}

#[test]
fn a_run_sees_args_that_have_a_value_and_are_not_hidden() {
    let text = "FROM x\nARG B=2 A\nARG H=1\nENV H=2\nRUN x\nARG C=3\nRUN y";
    let build_args = [("http_proxy", "p"), ("X", "1")];
    let plan = plan_with(Dialect::Dockerfile, text, &build_args).unwrap();
    let steps = steps(&plan).unwrap();
    let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    assert_eq!(steps[3].build_args, [pair("B", "2")]);
    assert_eq!(steps[5].build_args, [pair("B", "2"), pair("C", "3")]);
    assert_eq!(plan.proxies(), [pair("http_proxy", "p")]);
    let warnings: Vec<String> = plan.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(warnings, ["build argument X is not used: no ARG declares it [unused-build-arg]"]);
}

#[test]
fn the_copy_rule_comes_from_the_user_then_the_file() {
    let rule = |text: &str, copy_rule| {
        let file = Kubefile::parse("f", text.as_bytes(), Dialect::Kubefile).unwrap();
        let target = platform("arm64", None);
        let options = Options { copy_rule, ..options(&target) };
        Plan::new(file, options).unwrap().copy_rule()
    };
    assert_eq!(rule("# copy=docker\nFROM x", None), CopyRule::Docker);
    assert_eq!(rule("# copy=docker\nFROM x", Some(CopyRule::Kubefile)), CopyRule::Kubefile);
}

#[test]
fn mistakes_are_found_before_anything_runs() {
    for (text, line, message) in [
        ("FROM x\nRUN a\nENV A=${B:?gone}", 3, "B: gone"),
        ("FROM x\nRUN a\nCOPY \"a b\" c", 3, "is not closed"),
        ("FROM x\nEXPOSE http", 2, "is no port"),
        ("FROM x\nSTOPSIGNAL x", 2, "is no signal"),
        ("FROM x\nUSER $NONE", 2, "USER is empty"),
        ("FROM x\nENV $NONE=1", 2, "ENV has an empty name"),
        ("FROM x\nCOPY --chmod=u+q a b", 2, "write permission bits in octal"),
        ("FROM x\nARG U=https://x/y\nCOPY $U b", 3, "COPY does not fetch https://x/y: ADD does"),
    ] {
        let error = step_error(Dialect::Dockerfile, text);
        assert_eq!(error.location.first, line, "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn mistakes_in_the_words_of_kubefiles_are_found_too() {
    for (text, line, message) in [
        ("FROM x\nRUN a\nKUBEVERSION latest", 3, "is no range of versions"),
        ("FROM x\nKUBEVERSION 1.22\nKUBEVERSION >=1.23", 3, "no version of Kubernetes is in"),
        ("FROM x\nARG A\nAPP a local://$A", 3, "a source is empty"),
        ("FROM x\nAPP a oci://r.io/a", 2, "has no version: write oci://r.io/a:VERSION"),
        ("FROM x\nAPP a https://x/y.git", 2, "git repository https://x/y.git"),
        ("FROM x\nAPP --checksum=1 a https://x/y", 2, "is no digest"),
        ("FROM x\nAPP --checksum=sha256:1 a local://x", 2, "is no digest"),
    ] {
        let error = step_error(Dialect::Kubefile, text);
        assert_eq!(error.location.first, line, "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn what_is_not_built_yet_is_named() {
    let error = step_error(Dialect::Kubefile, "FROM x\nRUN --security=insecure x");
    assert!(error.is_unsupported());
    let first = error.to_string().lines().next().unwrap().to_owned();
    assert_eq!(first, "f:2: RUN --security=insecure is not supported by this version of kfs");
}

#[test]
fn triggers_of_the_base_come_first() {
    let mut base = ImageConfig::default();
    let triggers = ["ARG V=1", "RUN echo $V", "COPY <<E /x\n$V\nE", "ENV R=$V"];
    base.config.extra.insert("OnBuild".to_owned(), serde_json::json!(triggers));
    let plan = plan_with(Dialect::Dockerfile, "FROM x\nUSER ${R:-0}", &[("V", "2")]).unwrap();
    let expanded = plan.expand(0, &base, None).unwrap();
    let texts: Vec<_> = expanded.steps.iter().map(|step| &step.text[..]).collect();
    assert_eq!(texts, ["ARG V=1", "RUN echo $V", "COPY <<E /x", "ENV R=$V", "USER ${R:-0}"]);
    assert_eq!((expanded.total, expanded.steps[0].location.first), (6, 1));
    assert_eq!(expanded.config.config.user, "2");
    // They are used up.
    assert_eq!(expanded.config.config.extra.get("OnBuild"), None);
    base.config.extra.insert("OnBuild".to_owned(), serde_json::Value::Null);
    assert_eq!(plan.expand(0, &base, None).unwrap().total, 2);
    for bad in ["FROM y", "ONBUILD RUN x", "FROBNICATE", "RUN x\nRUN y", ""] {
        base.config.extra.insert("OnBuild".to_owned(), serde_json::json!([bad]));
        let error = plan.expand(0, &base, None).expect_err(bad);
        assert_eq!(error.location.first, 1);
        assert!(error.to_string().contains("trigger ONBUILD"), "{error}");
    }
}

#[test]
fn words_of_copy_may_be_empty_and_keep_what_makes_names_plain() {
    let text = "FROM x\nARG E V='a b*' U=http://h/x\nCOPY --chown=$E --chmod=$E --chown= \"\" $E\n\
                COPY n\\?pe \"st\\*uv\" q\\\\r $V d/\nADD $U\\? $U?a\\*b /\nWORKDIR $E\n";
    let files = |instruction: &Instruction| match instruction {
        Instruction::Copy(files) | Instruction::Add(Add { files, .. }) => files.clone(),
        other => panic!("{other:?}"),
    };
    let steps = steps(&plan(text)).unwrap();
    let sources = |at: usize| {
        let text = |source: &Source| match source {
            Source::Path(text) => text.clone(),
            Source::Inline(_) => panic!(),
        };
        files(&steps[at].instruction).sources.iter().map(text).collect::<Vec<_>>()
    };
    let first = files(&steps[1].instruction);
    assert_eq!((first.chown, first.chmod, first.dest.as_str()), (None, None, ""));
    assert_eq!(sources(1), [""]);
    assert_eq!(sources(2), [r"n\?pe", r"st\*uv", r"q\\r", "a b*"]);
    assert_eq!(sources(3), ["http://h/x?", "http://h/x?a*b"]);
}
