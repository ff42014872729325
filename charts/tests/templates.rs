//! Templates, one a line, with what helm makes of them; see `templates.txt`.

use kfs_charts::{Limits, render_text};
use serde_json::{Value, json};

fn data() -> Value {
    json!({
        "n": 5, "f": 1.5, "big": 12_345_678_901_u64, "million": 1_000_000, "neg": -3, "b": true,
        "s": "str", "l": ["a", "b", 3], "m": {"a": 1, "z": "q"}, "deep": {"x": {"y": [1, 2]}},
        "bin": "/wCA",
    })
}

/// What a template gives; `None` for an error.
fn rendered(template: &str) -> Option<String> {
    let data = json!({"case": template, "data": data()});
    let text = render_text("case", "{{ tpl .case .data }}", &data, &Limits::default());
    text.ok().map(|text| String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn templates_give_what_helm_gives() {
    let cases = include_str!("templates.txt").lines().filter(|line| !line.starts_with('#'));
    let (mut count, mut faults) = (0, Vec::new());
    for line in cases {
        let (template, text) = line.rsplit_once(" => ").unwrap();
        let expected = match text {
            "error" => None,
            text if text.starts_with('"') => Some(serde_json::from_str(text).unwrap()),
            text => Some(text.to_owned()),
        };
        let ours = rendered(template);
        if ours != expected {
            faults.push(format!("{template}\n  ours {ours:?}\n  helm {expected:?}"));
        }
        count += 1;
    }
    assert!(faults.is_empty(), "{} of {count}:\n{}", faults.len(), faults.join("\n"));
}
