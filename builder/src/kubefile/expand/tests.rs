use super::*;

/// Input | expected, or `!` and a part of the error's message.
/// A=apple, E is empty, P=/usr/local/lib, S='a b', Q=*?; U is unset.
const TABLE: &str = r#"
hello                   | hello
he\llo                  | hello
he\\llo                 | he\llo
he'll\o $A'             | hell\o $A
"he\llo"                | he\llo
"he\"llo"               | he"llo
"a\$A\\"                | a$A\
'$A'                    | $A
"$A"                    | apple
"it's $A"               | it's apple
\$A                     | $A
\${A}                   | ${A}
$A                      | apple
${A}                    | apple
$A.x                    | apple.x
$Ax                     |
${A}x                   | applex
$U                      |
x${U}x                  | xx
$                       | $
a$                      | a$
$.                      | $.
$ A                     | $ A
$1                      |
$12x                    | x
$?x                     | x
${A:-w}                 | apple
${A-w}                  | apple
${E:-w}                 | w
${E-w}                  |
${U:-w}                 | w
${U-w}                  | w
${U:-}                  |
${U:-$A}                | apple
${U:-${E:-${A}}}        | apple
${U:-"a b"}             | a b
${U:-'$A'}              | $A
${U:-"$A}"}             | apple}
${U:-a\}b}              | a}b
${A:+w}                 | w
${A+w}                  | w
${E:+w}                 |
${E+w}                  | w
${U:+w}                 |
${U+w}                  |
${A:?gone}              | apple
${A?gone}               | apple
${E:?gone}              | !E: gone
${E?gone}               |
${U:?gone}              | !U: gone
${U?gone}               | !U: gone
${U:?}                  | !U: is not set or empty
${U?}                   | !U: is not set
${A:-${U:?gone}}        | apple
${U:+${U:?gone}}        |
${P#*/}                 | usr/local/lib
${P##*/}                | lib
${P%/*}                 | /usr/local
${P%%/*}                |
${P%/lib}               | /usr/local
${P%x}                  | /usr/local/lib
${P#?usr}               | /local/lib
${P##}                  | /usr/local/lib
${Q#\*}                 | ?
${Q%\?}                 | *
${Q#[*]}                | *?
${U#a}                  |
${A/p/-}                | a-ple
${A//p/-}               | a--le
${A/p*/-}               | a-
${A//?/x}               | xxxxx
${A//p/}                | ale
${A/$A/x}               | x
${A/q/x}                | apple
${A/p/\/}               | a\/ple
${P//\//\/}             | \/usr\/local\/lib
${Q/\*\?/x}             | x
${A/$A/$P}              | /usr/local/lib
${P//\//-}              | -usr-local-lib
${P/\/usr/}             | /local/lib
${S// /_}               | a_b
${E/*/x}                | x
${A//p/$S}              | aa ba ble
"a${S}"'$S'$S           | aa b$Sa b
$A$A                    | appleapple
été-$A-日本             | été-apple-日本
${A                     | !lacks its }
${A:-w                  | !lacks its }
${A:                    | !lacks its }
${                      | !lacks its }
${}                     | !has no name
${:-x}                  | !has no name
${{}                    | !has no name
${A:=w}                 | !${A:=...}
${A^}                   | !${A^...}
${A:#x}                 | !${A:#...}
${A/p}                  | !lacks the /
'a                      | !a ' is not closed
"a                      | !a " is not closed
it's                    | !a ' is not closed
${U:-'a}                | !a ' is not closed
"#;

fn lookup(name: &str) -> Option<String> {
    let value = match name {
        "A" => "apple",
        "E" => "",
        "P" => "/usr/local/lib",
        "S" => "a b",
        "Q" => "*?",
        _ => return None,
    };
    Some(value.to_owned())
}

#[test]
fn words() {
    for line in TABLE.lines().filter(|line| !line.is_empty()) {
        let (input, expected) = line.rsplit_once('|').unwrap();
        let (input, expected) = (input.trim_end(), expected.trim());
        let result = word(input, '\\', &lookup);
        match expected.strip_prefix('!') {
            Some(message) => {
                let error = result.expect_err(line).to_string();
                assert!(error.contains(message), "{line}: {error}");
            }
            None => assert_eq!(result.as_deref(), Ok(expected), "{line}"),
        }
    }
}

#[test]
fn a_backtick_escapes_where_the_file_says_so() {
    assert_eq!(word("c:\\a`$A$A", '`', &lookup).unwrap(), "c:\\a$Aapple");
}

#[test]
fn a_heredoc_keeps_quotes_and_loses_backslashes() {
    for (input, expected) in [
        ("\"$A\" '$A' it's\n", "\"apple\" 'apple' it's\n"),
        ("\\\n", "\n"),
        ("\\\\\n", "\\\n"),
        ("\\$A \\n", "$A n"),
        ("${U:-x y} $", "x y $"),
        ("end\\", "end"),
    ] {
        assert_eq!(heredoc(input, &lookup).unwrap(), expected, "{input:?}");
    }
}

#[test]
fn known_leaves_the_rest_to_the_shell() {
    for (input, expected) in [
        ("kubectl apply -f m-${A}.yaml", "kubectl apply -f m-apple.yaml"),
        ("$A ${A:-x} ${A%le}", "apple apple app"),
        ("$U ${U} ${U:-$A} $(id) $$ $?", "$U ${U} ${U:-apple} $(id) $$ $?"),
        (r#"echo "$A" '$A' \$A "it's $A""#, r#"echo "apple" '$A' \$A "it's apple""#),
        ("echo it's $A", "echo it's $A"),
        ("a\\", "a\\"),
        ("${", "${"),
    ] {
        assert_eq!(known(input, &lookup).unwrap(), expected, "{input}");
    }
    assert!(known("${A:=x}", &lookup).is_err());
}

#[test]
fn growth_depth_and_time_are_bounded() {
    let large = |_: &str| Some("x".repeat(100_000));
    assert_eq!(word("$A$A", '\\', &large), Err(ExpandError::TooLong));
    assert_eq!(word("${A//x/yy}", '\\', &large), Err(ExpandError::TooLong));
    let pattern = format!("${{A//{}b/y}}", "a*".repeat(20_000));
    let long = |_: &str| Some("a".repeat(100_000));
    assert_eq!(word(&pattern, '\\', &long), Err(ExpandError::TooCostly("A".into())));
    let deep = "${U:-".repeat(5_000);
    assert_eq!(word(&deep, '\\', &lookup), Err(ExpandError::TooDeep));
}
