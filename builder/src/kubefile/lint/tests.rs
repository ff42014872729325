use super::*;
use crate::kubefile::Dialect;

/// `LINE CODE` of each finding.
fn found(dialect: Dialect, text: &str) -> Vec<String> {
    let file = Kubefile::parse("f", text.as_bytes(), dialect).expect(text);
    let at = |warning: &Warning| warning.location.as_ref().unwrap().first;
    file.warnings.iter().map(|warning| format!("{} {}", at(warning), warning.rule)).collect()
}

fn docker(text: &str) -> Vec<String> {
    found(Dialect::Dockerfile, text)
}

fn kubefile(text: &str) -> Vec<String> {
    found(Dialect::Kubefile, text)
}

fn messages(text: &str) -> String {
    let file = Kubefile::parse("f", text.as_bytes(), Dialect::Dockerfile).unwrap();
    file.warnings.iter().map(|warning| format!("{warning}\n")).collect()
}

#[test]
fn a_clean_file_has_no_findings() {
    let text = "ARG TAG=1\nFROM --platform=$BUILDPLATFORM golang:$TAG AS build\nARG TARGETARCH\n\
                WORKDIR /src\nCOPY . .\nRUN GOARCH=$TARGETARCH go build -o /app\nFROM scratch\n\
                COPY --from=build /app /app\nENV A=1 B=${C:-2}\nENTRYPOINT [\"/app\"]";
    assert_eq!(docker(text), [""; 0]);
    let text = "FROM scratch\nAPP a local://a/\nAPPCMDS a [\"kubectl apply -f $X\"]\n\
                COPY ${ARCH}/bin bin\nCMD kubectl get nodes\nCMD [\"helm list\"]";
    assert_eq!(kubefile(text), [""; 0]);
}

#[test]
fn each_rule_finds_what_it_is_for() {
    for (text, expected) in [
        ("ARG A\nFROM $A", "2 arg-without-default"),
        ("FROM x\nRUN a \\\n\n b", "2 blank-continuation"),
        ("FROM --platform=linux/amd64 x", "1 constant-platform"),
        ("FROM x AS a\nFROM y AS A", "2 duplicate-stage"),
        ("FROM x as a", "1 from-as-case"),
        ("# syntax=docker/dockerfile:1\nFROM x", "1 ignored-syntax"),
        ("FROM x\nRUN ['a', 'b']", "2 json-look"),
        ("FROM x\nCMD a b", "2 json-recommended"),
        ("FROM x\nENTRYPOINT a b", "2 json-recommended"),
        ("FROM x\nrun a", "2 keyword-case"),
        ("from x\nrun a\nCOPY a b", "3 keyword-case"),
        ("FROM x\nENV a b", "2 legacy-pair"),
        ("FROM x\nLABEL a b", "2 legacy-pair"),
        ("FROM x\nMAINTAINER me", "2 maintainer"),
        ("FROM scratch\nRUN a", "2 no-shell"),
        ("FROM x\nCMD []\nCMD [\"a\"]", "2 overridden"),
        ("FROM x\nHEALTHCHECK NONE\nHEALTHCHECK NONE", "2 overridden"),
        ("FROM x\nEXPOSE 80 8080:80", "2 published-port"),
        ("FROM --platform=$TARGETPLATFORM x", "1 redundant-platform"),
        ("FROM x\nWORKDIR a", "2 relative-workdir"),
        ("FROM x AS scratch", "1 reserved-stage"),
        ("FROM x\nENV API_KEY=1", "2 secret-name"),
        ("FROM x\nARG registryPassword\nRUN a", "2 secret-name"),
        ("FROM scratch\nUSER $A", "2 undefined-variable"),
        ("FROM x\nENV NAME=a\nUSER $NAMES", "3 undefined-variable"),
        ("FROM x\nUSER $TARGETARCH", "2 undefined-variable"),
        ("FROM $A", "1 undefined-variable"),
        ("FROM x AS build\nCOPY --from=biuld a b", "2 unknown-stage"),
        ("FROM x AS build\nRUN --mount=from=bulid,target=/x a", "2 unknown-stage"),
        ("FROM x\nARG A\nUSER a", "2 unused-arg"),
        ("ARG A=1\nFROM x", "1 unused-arg"),
    ] {
        assert!(docker(text).contains(&expected.to_owned()), "{text}: {:?}", docker(text));
    }
    for (text, expected) in [
        ("FROM scratch\nAPP web local://a\nLAUNCH wbe", "3 unknown-app"),
        ("FROM scratch\nAPPENV web a=b", "2 unknown-app"),
        ("FROM x\nCMDS a\nCMDS b", "2 overridden"),
        ("FROM x\nCMD ['a']", "2 json-look"),
    ] {
        assert_eq!(kubefile(text), [expected], "{text}");
    }
}

#[test]
fn each_rule_leaves_alone_what_it_is_not_for() {
    for text in [
        "FROM x\nCMD [\"a\"]\nFROM y\nCMD [\"b\"]",
        "FROM x\nSHELL [\"/bin/bash\"]\nCMD a b",
        "FROM x\nWORKDIR /a\nWORKDIR b",
        "FROM scratch\nWORKDIR b",
        "FROM x\nENV PUBLIC_KEY=1 MONKEY=2 AUTHOR=3 PWD=/x",
        "FROM x\nARG DEBIAN_FRONTEND=noninteractive\nRUN apt-get update",
        "ARG A=1\nFROM x\nARG A\nUSER $A",
        "ARG A=1\nARG B=$A\nFROM x:$B",
        "FROM x\nUSER $FROM_THE_BASE",
        "FROM x AS a\nENV V=1\nFROM a\nUSER $V",
        "FROM scratch AS a\nARG V=1\nFROM a\nUSER $V",
        "FROM scratch\nUSER ${A:-1}\nENV P=$PATH",
        "FROM x AS build\nCOPY --from=builder/image a b\nCOPY --from=0 a b",
        "from x as a\ncopy a b",
        "FROM scratch\nCOPY --from=busybox / /\nRUN a",
        "FROM x\nENV a=\"b c\"",
    ] {
        assert_eq!(docker(text), [""; 0], "{text}");
    }
    for text in [
        "FROM x\nCMD a\nCMD b",
        "FROM scratch\nRUN a",
        "FROM x\nLAUNCH [\"from-the-base\"]",
        "FROM x\nARG V=1\nCMD kubectl apply -f $V.yaml",
    ] {
        assert_eq!(kubefile(text), [""; 0], "{text}");
    }
}

#[test]
fn findings_say_what_is_meant() {
    assert_eq!(
        messages("ARG V=1\nFROM x AS build\nUSER $V\nCOPY --from=biuld a b"),
        "f:1: no FROM uses V, and no stage takes it with ARG V [unused-arg]\n\
         f:3: V is not known in this stage; take it with ARG V [undefined-variable]\n\
         f:4: no stage is called biuld, so it is an image; did you mean build? [unknown-stage]\n"
    );
}

#[test]
fn codes_are_unique_and_levels_are_printed() {
    let codes: std::collections::BTreeSet<_> = Rule::ALL.iter().map(|rule| rule.code()).collect();
    assert_eq!(codes.len(), Rule::ALL.len());
    assert!(Rule::ALL.iter().all(|rule| rule.sentence().ends_with('.')));
    assert_eq!(Rule::IgnoredSyntax.level().to_string(), "note");
    assert!(Level::Note < Level::Warning);
}

#[test]
fn a_hostile_file_costs_little() {
    let mut text = "FROM scratch\n".to_owned();
    for i in 0..12_000 {
        text += &format!("ARG A{i}\nUSER $B{i}\nrun a\n");
    }
    assert!(docker(&text).len() <= 2 * MAX_FINDINGS);
}
