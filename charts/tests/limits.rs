//! Templates and documents that would take all memory or time: each is stopped, with a word on why.

use kfs_charts::{Error, Limits, render_text};
use serde_json::json;

fn limits() -> Limits {
    Limits { steps: 100_000, bytes: 16 << 20, text: 1 << 20, depth: 1000 }
}

/// The message of the error that a template must end in.
fn stopped(text: &str) -> String {
    let data = json!({"text": "x", "big": "x".repeat(1 << 10)});
    match render_text("t", text, &data, &limits()) {
        Err(Error::Template { message, .. }) => message,
        other => panic!("{text}: {:?}", other.map(|text| text.len())),
    }
}

#[test]
fn loops_end() {
    for text in [
        "{{ range until 1000 }}{{ range until 1000 }}{{ $x := 1 }}{{ end }}{{ end }}",
        "{{ range 1000000000 }}{{ end }}",
        "{{ $l := until 1000 }}{{ range $l }}{{ $_ := uniq $l }}{{ end }}",
        "{{ range until 1000 }}{{ $_ := bcrypt \"x\" }}{{ end }}",
        // Few steps, each of which would take long.
        "{{ $b := repeat 1000000 \"x\" }}{{ range until 1000 }}{{ $_ := sha256sum $b }}{{ end }}",
        "{{ $l := until 10000 }}{{ range until 1000 }}{{ $_ := join \"\" (compact $l) }}{{ end }}",
        "{{ $d := splitn \"\" 10000 (repeat 10000 \"x\") }}{{ range until 1000 }}{{ $_ := pick $d }}{{ end }}",
        "{{ $d := splitn \"\" 10000 (repeat 10000 \"x\") }}{{ range until 1000 }}{{ range $d }}{{ break }}{{ end }}{{ end }}",
        "{{ $l := list (until 10000) }}{{ $m := list (until 10000) }}{{ range until 1000 }}{{ $_ := deepEqual $l $m }}{{ end }}",
        "{{ $x := list 1 }}{{ range until 60 }}{{ $x = list $x $x }}{{ end }}{{ range until 1000 }}{{ $_ := toJson $x }}{{ end }}",
        "{{ $t := repeat 10000 \"b\" }}{{ range until 1000 }}{{ $_ := regexMatch \"a{1000}\" $t }}{{ end }}",
        "{{ range until 1000 }}{{ $_ := regexMatch \"a{1000}\" \"\" }}{{ end }}",
        "{{ $t := repeat 100000 \"{{/**/}}\" }}{{ range until 1000 }}{{ $_ := tpl $t $ }}{{ end }}",
    ] {
        assert!(stopped(text).contains("more than 100000 steps"), "{text}");
    }
    let variables = "{{ $y := 1 }}".repeat(10_000);
    let text = format!(
        "{{{{ $x := 1 }}}}{variables}{{{{ range until 1000 }}}}{{{{ $x = 2 }}}}{{{{ end }}}}"
    );
    assert!(stopped(&text).contains("more than 100000 steps"));
}

#[test]
fn recursion_ends() {
    for text in [
        "{{ define \"a\" }}{{ include \"a\" . }}{{ end }}{{ include \"a\" . }}",
        "{{ define \"a\" }}{{ template \"a\" . }}{{ end }}{{ template \"a\" . }}",
        "{{ define \"a\" }}{{ include \"b\" . }}{{ end }}{{ define \"b\" }}{{ include \"a\" . }}{{ end }}{{ include \"a\" . }}",
        "{{ define \"a\" }}{{ range list 1 }}{{ with $ }}{{ if true }}{{ (printf \"%s\" (include \"a\" .)) | quote }}{{ end }}{{ end }}{{ end }}{{ end }}{{ include \"a\" . }}",
        "{{ $t := \"{{ tpl .t . }}\" }}{{ tpl $t (dict \"t\" $t) }}",
    ] {
        assert!(stopped(text).contains("1000 templates within one another"), "{text}");
    }
    let deep = |start: &str, end: &str| {
        let (start, end) = (start.repeat(250), end.repeat(250));
        format!(
            "{{{{ define \"a\" }}}}{start}{{{{ include \"a\" . }}}}{end}{{{{ end }}}}{{{{ include \"a\" . }}}}"
        )
    };
    assert!(stopped(&deep("{{ with $ }}", "{{ end }}")).contains("blocks within one another"));
    assert!(stopped(&deep("{{ if true }}", "{{ end }}")).contains("blocks within one another"));
    assert!(stopped(&deep("{{ range list 1 }}", "{{ end }}")).contains("within one another"));
    let (open, close) = ("(".repeat(250), ")".repeat(250));
    let parens = format!(
        "{{{{ define \"a\" }}}}{{{{ {open}include \"a\" .{close} }}}}{{{{ end }}}}{{{{ include \"a\" . }}}}"
    );
    assert!(stopped(&parens).contains("blocks within one another"));
    let nested = "{{ if true }}".repeat(10_000);
    assert!(stopped(&nested).contains("levels deep"));
    let parens = format!("{{{{ {}1{} }}}}", "(".repeat(10_000), ")".repeat(10_000));
    assert!(stopped(&parens).contains("levels deep"));
    let chain = format!("{{{{ if true }}}}{}", "{{ else if true }}".repeat(10_000));
    assert!(stopped(&chain).contains("levels deep"));
}

#[test]
fn texts_and_lists_stay_small() {
    for text in [
        "{{ repeat 1000000000 \"x\" }}",
        "{{ repeat 9223372036854775807 \"xx\" }}",
        "{{ until 1000000000 }}",
        "{{ untilStep 0 9223372036854775807 1 }}",
        "{{ seq 1000000000 }}",
        "{{ indent 1000000000 .text }}",
        "{{ nindent 100000 (repeat 100 \"\\n\") }}",
        "{{ printf \"%1000000d %1000000d\" 1 2 }}",
        "{{ printf \"%.1000000d%.1000000d\" 1 2 }}",
        "{{ replace \"x\" .big .big | replace \"x\" .big }}",
        "{{ regexReplaceAll \"x\" .big .big | replace \"x\" .big }}",
        "{{ regexReplaceAll \"\" (repeat 1024 .big | trunc 1000000) .big }}",
        "{{ randAlphaNum 1000000000 }}",
        "{{ randBytes 1000000000 }}",
        "{{ wrapWith 1 (repeat 1000 \"y\") (repeat 10000 \"x\") }}",
        "{{ join (repeat 1000 \"y\") (until 10000) }}",
        "{{ regexReplaceAll \".*\" (repeat 1000 .big) (repeat 100000 \"$0\") }}",
    ] {
        assert!(stopped(text).contains("too long"), "{text}: {}", stopped(text));
    }
    let doubling = "{{ $x := .big }}{{ range until 60 }}{{ $x = print $x $x }}{{ end }}";
    assert!(stopped(doubling).contains("too long"));
    let output = "{{ define \"a\" }}{{ .big }}{{ end }}{{ range until 1000 }}{{ range until 10 }}{{ template \"a\" $ }}{{ end }}{{ end }}";
    assert!(stopped(output).contains("too long"));
    let all = "{{ range until 1000 }}{{ $x := repeat 1000 $.big }}{{ end }}";
    assert!(stopped(all).contains("makes more than"), "{}", stopped(all));
    for text in [
        // A text of many parts.
        "{{ split \",\" (repeat 1000000 \",\") }}",
        "{{ splitList \",\" (repeat 1000000 \",\") }}",
        "{{ splitList \"\" (repeat 1000000 \",\") }}",
        "{{ splitn \",\" 1000000 (repeat 1000000 \",\") }}",
        "{{ regexFindAll \",\" (repeat 1000000 \",\") -1 }}",
        "{{ regexSplit \",\" (repeat 1000000 \",\") -1 }}",
        "{{ chunk 1 (until 30000) | len }}{{ range until 100 }}{{ $_ := chunk 1 (until 30000) }}{{ end }}",
        // Maps, and what documents say.
        "{{ $d := split \",\" (repeat 1000 \",\") }}{{ range until 1000 }}{{ $_ := omit $d }}{{ end }}",
        "{{ $d := split \",\" (repeat 1000 \",\") }}{{ range until 1000 }}{{ $_ := keys $d $d $d $d }}{{ end }}",
        "{{ $t := printf \"[%s1]\" (repeat 100000 \"1,\") }}{{ range until 10 }}{{ $_ := fromJsonArray $t }}{{ end }}",
        "{{ $t := printf \"[%s1]\" (repeat 100000 \"1,\") }}{{ range until 10 }}{{ $_ := mustFromJson $t }}{{ end }}",
        "{{ $t := printf \"[%s1]\" (repeat 100000 \"1,\") }}{{ range until 10 }}{{ $_ := fromYamlArray $t }}{{ end }}",
        "{{ $t := printf \"a=[%s1]\" (repeat 100000 \"1,\") }}{{ range until 10 }}{{ $_ := fromToml $t }}{{ end }}",
        "{{ $t := repeat 1000000 \"x\" }}{{ range until 100 }}{{ $_ := tpl $t $ }}{{ end }}",
    ] {
        assert!(stopped(text).contains("makes more than"), "{text}: {}", stopped(text));
    }
    let lists = "{{ $l := list }}{{ range until 20000 }}{{ $l = append $l . }}{{ end }}";
    assert!(stopped(lists).contains("makes more than"), "{}", stopped(lists));
}

#[test]
fn values_within_themselves_are_not_followed() {
    let doubled = "{{ $x := list 1 }}{{ range until 60 }}{{ $x = list $x $x }}{{ end }}";
    let cycle = "{{ $x := dict }}{{ $_ := set $x \"self\" $x }}";
    for (start, uses) in [
        (doubled, "{{ print $x }}"),
        (doubled, "{{ toYaml $x }}"),
        (doubled, "{{ $x | quote }}"),
        (doubled, "{{ mustToJson $x }}"),
        (doubled, "{{ deepCopy $x }}"),
        (cycle, "{{ print $x }}"),
        (cycle, "{{ toYaml $x }}"),
        (cycle, "{{ mustToJson $x }}"),
        (cycle, "{{ deepCopy $x }}"),
    ] {
        let message = stopped(&format!("{start}{uses}"));
        let told = ["too long", "too big", "cannot be written"].iter().any(|w| message.contains(w));
        assert!(told, "{uses}: {message}");
    }
    // These end without an error.
    let equal =
        format!("{cycle}{{{{ deepEqual $x (dict \"self\" $x) }}}}{{{{ toJson $x | len }}}}");
    render_text("t", &equal, &json!({}), &limits()).unwrap();
}

#[test]
fn documents_in_templates_are_bounded_too() {
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f,*f]";
    for (text, expected) in [
        (format!("{{{{ (fromYaml \"{bomb}\").Error }}}}"), "too many nodes"),
        ("{{ (fromYaml (repeat 10000 \"[\")).Error }}".into(), "yaml"),
        ("{{ (fromYaml (repeat 10000 \"- \")).Error }}".into(), "yaml"),
        ("{{ (fromJson (repeat 10000 \"[\")).Error }}".into(), "json"),
        ("{{ (fromToml (printf \"a = %s\" (repeat 10000 \"[\"))).Error }}".into(), "toml"),
    ] {
        let bytes = render_text("t", &text, &json!({}), &limits()).unwrap();
        let message = String::from_utf8(bytes).unwrap();
        assert!(message.contains(expected), "{message}");
    }
    // It is no work to put an entry into a map, however many it has.
    let many = "{{ $d := dict }}{{ range until 10000 }}{{ $_ := set $d (toString .) . }}{{ end }}{{ len $d }}";
    assert_eq!(render_text("t", many, &json!({}), &limits()).unwrap(), b"10000");
    // Big counts in an expression make a program that is too big.
    assert!(stopped("{{ regexFind \"((a{1000}){1000}){1000}\" \"a\" }}").contains("regexp"));
}

#[test]
fn nothing_of_the_machine_is_seen() {
    for text in ["{{ env \"HOME\" }}", "{{ expandenv \"$HOME\" }}", "{{ exec \"id\" }}"] {
        assert!(stopped(text).contains("not defined"), "{text}");
    }
    let bytes = render_text("t", "[{{ getHostByName \"localhost\" }}]", &json!({}), &limits());
    assert_eq!(bytes.unwrap(), b"[]");
}
