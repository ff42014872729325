//! Whatever a template, a document or an argument is: an error at worst, never a panic.

use kfs_charts::{Error, Limits, documents, render_text, set_values};
use proptest::prelude::*;
use serde_json::json;

/// All functions with some that take them as arguments.
const FUNCTIONS: &str = "abbrev abbrevboth add add1 add1f addf adler32sum ago all and any append \
    atoi b32dec b32enc b64dec b64enc base buildCustomCert call camelcase cat ceil chunk clean \
    coalesce compact concat contains date dateInZone dateModify deepCopy deepEqual default dict \
    dig dir div divf duration durationDays durationRound durationRoundTo durationSeconds empty eq \
    ext fail first float64 floor fromJson fromJsonArray fromToml fromYaml fromYamlArray ge \
    genSignedCert get gt has hasKey hasPrefix hasSuffix html htmlDate include indent index \
    initial initials int int64 isAbs join js kebabcase keys kindIs kindOf last le len list lookup \
    lower lt max maxf merge mergeOverwrite min mod mul mulf mustToDate mustToDuration \
    mustRegexFindAll ne nindent nospace not omit or pick pluck plural prepend print printf println \
    quote randInt regexFind regexFindAll regexMatch regexQuoteMeta regexReplaceAll regexSplit \
    repeat replace required rest reverse round semver semverCompare seq set sha256sum shuffle \
    slice snakecase sortAlpha split splitList splitn squote sub subf substr swapcase ternary title \
    toDate toDecimal toJson toPrettyJson toRawJson toString toStrings toToml toYaml toYamlPretty \
    tpl trim trimAll trimPrefix trimSuffix trunc typeIs typeOf unixEpoch uniq unset until \
    untilStep untitle upper urlJoin urlParse urlquery values without wrap wrapWith";

const ARGUMENTS: [&str; 40] = [
    "nil",
    "true",
    "0",
    "-1",
    "1",
    "7",
    "9223372036854775807",
    "-9223372036854775808",
    "1.5",
    "-0.0",
    "1e300",
    "\"\"",
    "\"a\"",
    "\"a b-c_D\"",
    "\"\u{e9}\u{65e5}\"",
    "\"\\xff\\x00\"",
    "\"1h2m\"",
    "\"-9223372036s\"",
    "\"2006-01-02\"",
    "\"v1.2.3-rc.1\"",
    "\">=1.x || ~2 - 3\"",
    "\"[a-\\\\w]{2,}(\"",
    "\"%*d %[3]q %v %+.9999f\"",
    "\"a: [1, {b: c}]\"",
    "\"http://[::1]:x/%zz\"",
    "(list)",
    "(list 1 \"a\" nil)",
    "(list (list 1) (dict))",
    "(dict)",
    "(dict \"a\" 1 \"b\" (dict \"c\" nil))",
    "(until 3)",
    "now",
    "(toDate \"2006\" \"0001\")",
    "(semver \"1.2.3\")",
    "(mustToDuration \"1h\")",
    "(b64dec \"/w==\")",
    ".",
    ".m.x",
    "(split \",\" \"a,b\")",
    "(genCA \"a\" 1)",
];

fn limits() -> Limits {
    Limits { steps: 20_000, bytes: 4 << 20, text: 1 << 16, depth: 50 }
}

/// Runs a template; a panic shows as the death of the thread that renders.
fn runs(text: &str) {
    let data = json!({"m": {"x": ["a", 1, {"y": null}]}});
    if let Err(Error::Thread) = render_text("t", text, &data, &limits()) {
        panic!("{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn calls_of_functions(
        name in proptest::sample::select(FUNCTIONS.split_whitespace().collect::<Vec<_>>()),
        arguments in proptest::collection::vec(proptest::sample::select(&ARGUMENTS[..]), 0..5),
        method in proptest::sample::select(vec!["", "", ".Format", ".AddDate 9 9999999999 -1", ".Unix"]),
    ) {
        let call = format!("{name} {}", arguments.join(" "));
        runs(&format!("{{{{ {call} }}}}"));
        if !method.is_empty() {
            runs(&format!("{{{{ ({call}){method} }}}}"));
        }
    }

    #[test]
    fn pieces_of_templates(
        pieces in proptest::collection::vec(proptest::sample::select(vec![
            "{{", "}}", "{{-", "-}}", " ", "if ", "else ", "end", "range ", "with ", "define ", "template ",
            "block ", "\"a\"", "$", "$x", ":=", "=", ".", ".m", ".x", "(", ")", "|", ",", "/*", "*/", "`",
            "'", "0x", "1e", "1_", "é", "\n", "break", "continue", "print ", "nil", "\\",
        ]), 0..30),
    ) {
        runs(&pieces.concat());
        runs(&format!("{{{{ {} }}}}", pieces.concat()));
    }

    #[test]
    fn pieces_of_documents(
        pieces in proptest::collection::vec(proptest::sample::select(vec![
            "a", ": ", "- ", "\n", "\n  ", "{", "}", "[", "]", ",", "'", "\"", "|", ">", "&a ", "*a", "!!int ",
            "!", "?", "#", "---\n", "...", "1", "0x1", "1e9", "<<: ", "\t", "é", "\\x", "%", "~", ".inf",
            "2001-01-01T0+é:00",
        ]), 0..30),
    ) {
        let text = pieces.concat();
        let _read = documents("d", &text);
        runs(&format!("{{{{ fromYaml {text:?} | toYaml | fromYaml | toYamlPretty }}}}"));
    }

    #[test]
    fn values_that_are_set(text in "[a-c.=,\\[\\]{}0-9\\\\é-]{0,20}") {
        let _set = set_values(&mut json!({"a": [1]}), &text, false);
    }
}
