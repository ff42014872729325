use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Kubefile, KubefileError> {
    Kubefile::parse("Kubefile", text.as_bytes(), Dialect::Kubefile)
}

/// The statements after FROM.
fn statements(text: &str) -> Vec<Statement> {
    parse(text).unwrap().statements.split_off(1)
}

fn instruction(line: &str) -> Instruction {
    statements(&format!("FROM x\n{line}")).remove(0).instruction
}

fn error(line: &str) -> KubefileError {
    parse(&format!("FROM x\n{line}")).expect_err(line)
}

fn shell(text: &str) -> Command {
    Command::Shell(text.to_owned())
}

fn exec(words: &[&str]) -> Command {
    Command::Exec(words.iter().map(|s| (*s).to_owned()).collect())
}

fn run_text(text: &str) -> String {
    match instruction(text) {
        Instruction::Run(Run { command: Command::Shell(text), .. }) => text,
        other => panic!("{other:?}"),
    }
}

fn path(text: &str) -> Source {
    Source::Path(text.to_owned())
}

#[test]
fn lines_are_joined_and_counted() {
    let text = "\u{feff}# syntax=docker/dockerfile:1\r\n\r\nfrom x\r\n  # indented\r\n\
                Run a  \\ \r\n  # comment\r\n\r\n\t b \\\r\n\r\n  c\r\n\r\nUSER 1";
    let file = parse(text).unwrap();
    let found: Vec<_> = file
        .statements
        .iter()
        .map(|s| (s.location.first, s.location.last, s.text.as_str()))
        .collect();
    let expected = [(3, 3, "FROM x"), (5, 10, "RUN a  \t b   c"), (12, 12, "USER 1")];
    assert_eq!(found, expected);
    assert_eq!(file.statements[1].location.lines[0], "Run a  \\ ");
}

#[test]
fn continuations() {
    for (text, expected) in [
        ("RUN a \\\n b", "a  b"),
        ("RUN a \\\\\n", "a \\\\"),
        ("RUN a \\", "a"),
        ("RUN a \\\n\\\n b", "a  b"),
        ("RUN a \\\n# c \\\n b", "a  b"),
        ("RUN a # no comment", "a # no comment"),
    ] {
        assert_eq!(run_text(text), expected, "{text}");
    }
}

#[test]
fn directives_stand_at_the_head() {
    let file =
        parse("# Copy = Docker\n# anything=else\n# escape=`\nFROM x\nRUN a `\n \\b").unwrap();
    assert_eq!((file.copy_rule, file.escape), (Some(CopyRule::Docker), '`'));
    assert_eq!(file.statements[1].text, "RUN a  \\b");
    let late = parse("# a comment\n# copy=docker\nFROM x").unwrap();
    assert_eq!(late.copy_rule, None);
    for (text, line) in [
        ("# escape=x\nFROM x", 1),
        ("# copy=unix\nFROM x", 1),
        ("# escape=`\n# escape=`\nFROM x", 2),
    ] {
        assert_eq!(parse(text).expect_err(text).location.first, line, "{text}");
    }
}

#[test]
fn run_heredocs() {
    assert_eq!(run_text("RUN <<EOF\na\n# b\n\\\nEOF\nUSER 1"), "a\n# b\n\\\n");
    assert_eq!(run_text("RUN <<-EOF\n\t\ta\n\tEOF"), "a\n");
    assert_eq!(
        run_text("RUN cat <<'A' 3<<B > /x\n1\nA\n2\nB\n"),
        "cat <<'A' 3<<B > /x\n1\nA\n2\nB\n"
    );
    let all = statements("FROM x\nRUN <<EOF\na\nEOF\nUSER 1");
    assert_eq!((all[0].location.first, all[0].location.last), (2, 4));
    assert_eq!(all[0].text, "RUN <<EOF");
    assert_eq!(all[1].location.first, 5);
    assert_eq!(error("RUN <<EOF\na").location.first, 2);
    assert_eq!(run_text("RUN <<EOF > /x\na\nEOF"), "<<EOF > /x\na\nEOF");
    let Instruction::Run(run) = instruction("RUN <<-'EOF'\n\t#!/bin/x\n\ta\nEOF") else { panic!() };
    assert_eq!(run.command, exec(&["/dev/pipes/EOF"]));
    assert_eq!(run.script.unwrap().content, "#!/bin/x\na\n");
    error("RUN <<a/b\n#!/bin/x\na/b");
    let copy = &statements("FROM x\nCOPY [\"<<a\", \"b\"]\nUSER a")[0].instruction;
    assert!(matches!(copy, Instruction::Copy(copy) if copy.sources == [path("<<a")]));
    assert_eq!(run_text("RUN echo $((1<<2))"), "echo $((1<<2))");
}

#[test]
fn copy_forms() {
    let copy = |line: &str| match instruction(line) {
        Instruction::Copy(copy) => copy,
        other => panic!("{other:?}"),
    };
    let plain = copy("COPY --chown=a:b --chmod=644 x y* z/");
    assert_eq!((plain.chown.as_deref(), plain.chmod.as_deref()), (Some("a:b"), Some("644")));
    assert_eq!((plain.sources, plain.dest), (vec![path("x"), path("y*")], "z/".to_owned()));
    let json = copy("COPY [\"a b\", \"c d\"]");
    assert_eq!((json.sources, json.dest), (vec![path("a b")], "c d".to_owned()));
    let inline = copy("COPY a <<x <<\"y\" /d/\n$1\nx\n2\ny");
    let heredoc = |name: &str, content: &str, expand| {
        Source::Inline(Heredoc { name: name.into(), content: content.into(), expand })
    };
    assert_eq!(inline.sources, [path("a"), heredoc("x", "$1\n", true), heredoc("y", "2\n", false)]);
    for line in ["COPY a", "COPY", "COPY [\"a\"]", "COPY a <<x\nx", "COPY --chown a b"] {
        assert!(!error(line).is_unsupported(), "{line}");
    }
}

#[test]
fn pairs_and_lists() {
    let pairs = |line: &str| match instruction(line) {
        Instruction::Env(Env { pairs }) | Instruction::Label(Label { pairs }) => {
            pairs.into_iter().map(|p| (p.key, p.value)).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    assert_eq!(
        pairs("ENV a=b c=\"d e\" f="),
        [pair("a", "b"), pair("c", "\"d e\""), pair("f", "")]
    );
    assert_eq!(pairs("ENV a  b c=d"), [pair("a", "b c=d")]);
    assert_eq!(pairs("LABEL \"a b\"=c\\ d"), [pair("\"a b\"", "c\\ d")]);
    assert_eq!(pairs("ENV a=b=c"), [pair("a", "b=c")]);
    for line in ["ENV a", "ENV a=b c", "ENV =x", "ENV", "LABEL"] {
        error(line);
    }
    let arg = instruction("ARG a b=c \"d=e f\"");
    let args = vec![
        ("a".into(), None),
        ("b".into(), Some("c".into())),
        ("\"d".into(), Some("e f\"".into())),
    ];
    assert_eq!(arg, Instruction::Arg(Arg { args }));
}

#[test]
fn commands() {
    let cmd = |line: &str| match instruction(line) {
        Instruction::Cmd(Cmd { command }) => command,
        other => panic!("{other:?}"),
    };
    assert_eq!(cmd("CMD [\"a b, c\", \"d\"]"), exec(&["a b, c", "d"]));
    assert_eq!(cmd("CMD a, b"), shell("a, b"));
    assert_eq!(cmd("CMD []"), exec(&[]));
    let warned = parse("FROM x\nCMD ['a', 'b']").unwrap();
    assert_eq!(warned.warnings.len(), 1);
    assert!(warned.warnings[0].to_string().starts_with("Kubefile:2: CMD looks like"), "{warned:?}");
    assert!(parse("FROM x\nRUN [ -f a ]").unwrap().warnings.is_empty());
    error("CMD");
    error("RUN []");
    error("SHELL /bin/sh");
    error("VOLUME [\"\"]");
}

#[test]
fn from_forms() {
    let from = |line: &str| match parse(line).unwrap().statements.remove(0).instruction {
        Instruction::From(from) => (from.platform, from.image, from.name),
        other => panic!("{other:?}"),
    };
    let text = |s: &str| Some(s.to_owned());
    assert_eq!(from("FROM a:b"), (None, "a:b".into(), None));
    assert_eq!(from("from --platform=$P a as Base"), (text("$P"), "a".into(), text("base")));
    for line in ["FROM", "FROM a b", "FROM a AS", "FROM a AS 1", "FROM --x a", "FROM --platform a"]
    {
        parse(line).expect_err(line);
    }
}

#[test]
fn flags_of_copy_and_add() {
    let line = "COPY --from=b --chown=1 --chmod=u=rwX --link --parents=false --exclude=*.o \
                --exclude=x a b";
    let Instruction::Copy(copy) = instruction(line) else { panic!() };
    let expected = Copy {
        from: Some("b".into()),
        chown: Some("1".into()),
        chmod: Some("u=rwX".into()),
        link: true,
        parents: false,
        exclude: vec!["*.o".into(), "x".into()],
        sources: vec![path("a")],
        dest: "b".into(),
    };
    assert_eq!(copy, expected);
    let line =
        "ADD --keep-git-dir=true --checksum=sha256:1 --unpack=false --link http://x/y <<z /d\n1\nz";
    let Instruction::Add(add) = instruction(line) else { panic!() };
    assert!(add.keep_git_dir && add.files.link && add.unpack == Some(false), "{add:?}");
    assert_eq!((add.checksum.as_deref(), add.files.sources.len()), (Some("sha256:1"), 2));
    for line in ["ADD --from=x a b", "ADD --parents a b", "COPY --link=maybe a b", "ADD a"] {
        error(line);
    }
}

#[test]
fn flags_of_run() {
    let line = "RUN --mount=type=cache,target=/c --mount=type=secret,id=s,required \
                --network=none --security=insecure make";
    let Instruction::Run(run) = instruction(line) else { panic!() };
    assert_eq!((run.network, run.security), (Network::None, Security::Insecure));
    assert_eq!((run.command, run.mounts.len()), (shell("make"), 2));
    assert!(matches!(run.mounts[0].mount(), Ok(Mount::Cache(cache)) if cache.target == "/c"));
    instruction("RUN --mount=type=cache,target=$T,uid=$U make");
    assert!(error("RUN --device=x make").is_unsupported());
    for line in ["RUN --mount=type=cache x", "RUN --network=no x", "RUN --mount x", "RUN --x y"] {
        error(line);
    }
}

#[test]
fn health_checks() {
    let check = |line: &str| match instruction(line) {
        Instruction::Healthcheck(check) => check,
        other => panic!("{other:?}"),
    };
    assert_eq!(check("HEALTHCHECK none"), Healthcheck::None);
    let line = "HEALTHCHECK --interval=1m --timeout=3s --start-period=0s --start-interval=5s \
                --retries=3 cmd curl x";
    let expected = HealthCommand {
        command: shell("curl x"),
        interval: Some(Duration::from_secs(60)),
        timeout: Some(Duration::from_secs(3)),
        start_period: None,
        start_interval: Some(Duration::from_secs(5)),
        retries: Some(3),
    };
    assert_eq!(check(line), Healthcheck::Check(expected));
    for line in [
        "HEALTHCHECK",
        "HEALTHCHECK CMD",
        "HEALTHCHECK CMD []",
        "HEALTHCHECK curl",
        "HEALTHCHECK NONE x",
        "HEALTHCHECK --interval=1m NONE",
        "HEALTHCHECK --interval=1 CMD x",
        "HEALTHCHECK --interval=1us CMD x",
        "HEALTHCHECK --retries=x CMD x",
    ] {
        error(line);
    }
}

#[test]
fn triggers() {
    let Instruction::Onbuild(trigger) = instruction("onbuild copy a \\\n <<x b/\n1\nx") else {
        panic!()
    };
    assert_eq!(trigger.text, "copy a  <<x b/\n1\nx");
    assert!(matches!(&*trigger.instruction, Instruction::Copy(copy) if copy.sources.len() == 2));
    let again = Kubefile::parse_trigger("base", &trigger.text, Dialect::Dockerfile).unwrap();
    assert_eq!(again.instruction, *trigger.instruction);
    for line in [
        "ONBUILD",
        "ONBUILD FROM x",
        "ONBUILD ONBUILD RUN x",
        "ONBUILD MAINTAINER x",
        "ONBUILD X",
        "ONBUILD LAUNCH a",
    ] {
        error(line);
    }
    for text in ["", "RUN a\nRUN b", "FROM x", "ONBUILD RUN x"] {
        Kubefile::parse_trigger("base", text, Dialect::Dockerfile).expect_err(text);
    }
}

#[test]
fn words_of_kubefiles() {
    let app = |name: &str, sources| App { name: name.to_owned(), sources, checksum: None };
    let local = |path: &str| AppSource::Local(path.to_owned());
    let url = "https://x/y.yaml".to_owned();
    let sources = vec![local("a/"), AppSource::Remote(url)];
    assert_eq!(
        instruction("APP a local://a/ https://x/y.yaml"),
        Instruction::App(app("a", sources))
    );
    let chart = vec![AppSource::Chart("r.io/x/y:1.0.0".to_owned())];
    assert_eq!(
        instruction("APP --checksum=sha256:1 a oci://r.io/x/y:1.0.0"),
        Instruction::App(App { checksum: Some("sha256:1".into()), ..app("a", chart) })
    );
    assert_eq!(instruction("cni f local://f.sh"), Instruction::Cni(app("f", vec![local("f.sh")])));
    assert_eq!(instruction("CSI f local://f.sh"), Instruction::Csi(app("f", vec![local("f.sh")])));
    let commands = vec!["b c".to_owned(), "d".to_owned()];
    let cmds = AppCmds { app: "a".into(), commands: commands.clone() };
    assert_eq!(instruction("appcmds a [\"b c\", \"d\"]"), Instruction::AppCmds(cmds));
    let Instruction::AppEnv(env) = instruction("APPENV a b=c d=\"e f\"") else { panic!() };
    assert_eq!((env.app.as_str(), env.pairs.len()), ("a", 2));
    assert_eq!(instruction("CMDS [\"b c\",\"d\"]"), Instruction::Cmds(Cmds { commands }));
    let plain = Cmds { commands: vec!["b, c".into()] };
    assert_eq!(instruction("CMDS b, c"), Instruction::Cmds(plain));
    for line in ["LAUNCH [\"a\",\"b\"]", "LAUNCH a  b"] {
        let apps = vec!["a".into(), "b".into()];
        assert_eq!(instruction(line), Instruction::Launch(Launch { apps }));
    }
    let range = "1.22 - 1.24".to_owned();
    assert_eq!(
        instruction("KUBEVERSION 1.22 - 1.24"),
        Instruction::KubeVersion(KubeVersion { range })
    );
    for line in [
        "APP",
        "APP a",
        "APP a b",
        "APP a helm://b",
        "APP a local://",
        "APP ../a local://b",
        "APPCMDS a",
        "APPCMDS a b",
        "APPCMDS a []",
        "APPENV a",
        "APPENV a b",
        "LAUNCH",
        "LAUNCH []",
        "LAUNCH [\"a b\"]",
        "KUBEVERSION",
        "CMDS",
    ] {
        error(line);
    }
    let docker = Kubefile::parse("f", b"FROM x\nAPP a local://b", Dialect::Dockerfile).unwrap_err();
    assert!(docker.to_string().contains("a word of Kubefiles"), "{docker}");
}

#[test]
fn launch_excludes_other_starts() {
    for (text, line) in [
        ("LAUNCH a\nLAUNCH b", 3),
        ("LAUNCH a\nCMDS b", 3),
        ("CMDS b\nUSER x\nLAUNCH a", 4),
        ("CMD b\nLAUNCH a", 3),
    ] {
        assert_eq!(error(text).location.first, line, "{text}");
    }
    parse("FROM x\nCMDS a\nCMDS b\nCMD c\nFROM y\nLAUNCH a").unwrap();
}

#[test]
fn errors_show_the_line_and_what_to_do() {
    assert_eq!(
        error("# c\n  COPPY a b").to_string(),
        "Kubefile:3: unknown instruction COPPY\n    3 |   COPPY a b\n      |   ^^^^^\n  did you mean COPY?"
    );
    assert_eq!(
        error("ENV a=b c").to_string(),
        "Kubefile:2: ENV needs NAME=VALUE, but c has no =\n    2 | ENV a=b c\n      |         ^\n  \
         put values with blanks between quotes: NAME=\"a b\""
    );
    assert_eq!(
        error("RUN --network=none \\\n # c\n    --mount=type=cahce,target=/x make").to_string(),
        "Kubefile:2: there is no mount type cahce\n    2 | RUN --network=none \\\n    3 |  # c\n    \
         4 |     --mount=type=cahce,target=/x make\n      |                  ^^^^^\n  did you mean cache?"
    );
    assert_eq!(
        error("COPY --chwon=a b c").to_string(),
        "Kubefile:2: COPY has no flag --chwon\n    2 | COPY --chwon=a b c\n      |      ^^^^^^^^^\n  \
         did you mean --chown?"
    );
    let wide = error(&format!("ENV a=b \t\x1b{}", "y".repeat(500))).to_string();
    assert!(wide.lines().all(|line| line.chars().count() < 600) && !wide.contains('\x1b'));
    let high = error(&format!("ENV a=b c \\\n{}", "d \\\n".repeat(100))).to_string();
    assert!(high.contains("more lines)"), "{high}");
}

#[test]
fn words_that_are_nearly_right() {
    for (word, keyword) in
        [("FORM", "FROM"), ("CPY", "COPY"), ("RUNN", "RUN"), ("entrypont", "ENTRYPOINT")]
    {
        let known = Keyword::ALL.iter().map(|keyword| keyword.as_str());
        assert_eq!(error::did_you_mean(word, known), Some(keyword), "{word}");
    }
    for word in ["x", "kubectl", "日本", &"RUN".repeat(1000)] {
        let known = Keyword::ALL.iter().map(|keyword| keyword.as_str());
        assert_eq!(error::did_you_mean(word, known), None, "{word}");
    }
}

#[test]
fn the_file_as_a_whole() {
    for (bytes, line) in [
        (&b""[..], 1),
        (b"# only a comment\n", 1),
        (b"ARG a=b\n", 1),
        (b"\nRUN x\nFROM y", 2),
        (b"FROM x\nRUN \xff\n", 2),
        (b"FROM x\n\nRUN a\0b\n", 3),
    ] {
        let error = Kubefile::parse("f", bytes, Dialect::Dockerfile).unwrap_err();
        assert_eq!(error.location.first, line, "{error}");
    }
    let large = "FROM x\n".repeat(MAX_FILE / 7 + 1);
    assert!(matches!(parse(&large).unwrap_err().problem, Problem::File(_)));
}

#[test]
fn hostile_files_are_bounded() {
    let wide = "x".repeat(MAX_FILE - 20);
    assert_eq!(run_text(&format!("RUN {wide}")).len(), wide.len());
    assert_eq!(run_text(&format!("RUN {}", "a\\\n".repeat(MAX_FILE / 4))).len(), MAX_FILE / 4);
    let error = error(&format!("ENV {wide}"));
    assert!(error.to_string().len() < 1000, "{error}");
    for line in [
        format!("CMD {}", "[".repeat(100_000)),
        format!("COPY {}", "<<a ".repeat(100_000)),
        format!("ENV A={}", "${A:-".repeat(100_000)),
        "ONBUILD ".repeat(100_000),
        format!("RUN {}", "--mount=target=/x ".repeat(50_000)),
        format!("LABEL a=\"{wide}"),
    ] {
        // Any end is right, but one has to come.
        drop(parse(&format!("FROM x\n{line}")));
    }
}

#[test]
fn what_is_unfinished_is_an_error_of_its_line() {
    for (text, message) in [
        ("RUN <<A <<B\nA\n", "the heredoc <<B has no end"),
        ("CMD [\"a\", 1]", "the JSON array of CMD may hold only strings"),
        ("COPY [1] b", "COPY [1] b"),
        ("LABEL =b", "LABEL =b has no name"),
        ("ENV a", "ENV a has no value"),
        ("COPY --from= a b", "COPY --from needs a value"),
        ("FROM", "FROM needs an image"),
        ("EXPOSE", "EXPOSE needs an argument"),
        ("USER --x", "USER has no flag --x"),
    ] {
        match parse(&format!("FROM x\n{text}")) {
            Err(error) => {
                assert_eq!(error.location.first, 2, "{text}");
                assert!(error.to_string().contains(message), "{text}: {error}");
            }
            // A word that only looks like JSON is a file.
            Ok(file) => assert_eq!(file.statements[1].text, message),
        }
    }
}

#[test]
fn dialects_by_name() {
    for name in ["Kubefile", "kubefile.arm", "my.Kubefile", "Sealfile"] {
        assert_eq!(Dialect::of_file_name(name), Dialect::Kubefile, "{name}");
    }
    for name in ["Dockerfile", "Containerfile", "x"] {
        assert_eq!(Dialect::of_file_name(name), Dialect::Dockerfile, "{name}");
    }
}

/// Text that is likely to be nearly a build file.
fn nearly_a_file() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        proptest::sample::select(vec![
            "FROM x\n",
            "RUN ",
            "COPY ",
            "ENV ",
            "ARG ",
            "CMD ",
            "LABEL ",
            "--chown=",
            "# escape=`\n",
            "\\\n",
            "\n",
            "<<EOF",
            "EOF\n",
            "\"",
            "'",
            "${",
            "}",
            "$A",
            "=",
            "[",
            "]",
            "\\",
            "`",
            "\r\n",
            "\t",
            "#",
            ":-",
            "//",
            "%%",
            "*",
            "-",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,4}",
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn parsing_never_panics(text in nearly_a_file()) {
        for dialect in [Dialect::Kubefile, Dialect::Dockerfile] {
            match Kubefile::parse("f", format!("FROM x\n{text}").as_bytes(), dialect) {
                Ok(file) => for statement in &file.statements {
                    let lines = statement.location.last - statement.location.first + 1;
                    prop_assert_eq!(statement.location.lines.len(), lines);
                },
                Err(error) => prop_assert!(error.to_string().starts_with("f:")),
            }
        }
    }

    #[test]
    fn any_bytes_are_a_file_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        match Kubefile::parse("f", &bytes, Dialect::Kubefile) {
            Ok(file) => prop_assert!(!file.statements.is_empty()),
            Err(error) => prop_assert!(error.to_string().starts_with("f:")),
        }
    }

    #[test]
    fn expanding_never_panics(text in nearly_a_file(), any in "\\PC{0,20}") {
        let lookup = |name: &str| (name != "U").then(|| format!("{any}{name}"));
        for text in [&text, &any, &format!("${{{text}"), &format!("${{A{text}}}")] {
            drop(expand::word(text, '\\', &lookup));
            drop(expand::known(text, &lookup));
            drop(expand::heredoc(text, &lookup));
        }
    }

    #[test]
    fn quoted_text_comes_out_as_it_is(text in "[^']{0,40}") {
        prop_assert_eq!(expand::word(&format!("'{text}'"), '\\', &|_| None).unwrap(), text);
    }
}
