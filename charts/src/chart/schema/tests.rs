//! One case a line: schema, a value that fits, a value that does not.

use super::*;

const CASES: &[(&str, &str, &str)] = &[
    (r#"{"type": "string"}"#, r#""a""#, "1"),
    (r#"{"type": ["string", "null"]}"#, "null", "1"),
    (r#"{"type": "integer"}"#, "1.0", "1.5"),
    (r#"{"type": "number"}"#, "1.5", "true"),
    (r#"{"enum": ["a", 1]}"#, "1.0", r#""b""#),
    (r#"{"const": {"a": 1}}"#, r#"{"a": 1.0}"#, r#"{"a": 2}"#),
    (r#"{"minimum": 1, "maximum": 3}"#, "3", "0"),
    (r#"{"minimum": 1, "exclusiveMinimum": true}"#, "2", "1"),
    (r#"{"exclusiveMaximum": 3}"#, "2.9", "3"),
    (r#"{"multipleOf": 0.1}"#, "0.3", "0.35"),
    (r#"{"minLength": 2}"#, r#""éé""#, r#""é""#),
    (r#"{"pattern": "^a+$"}"#, r#""aa""#, r#""ab""#),
    (
        r#"{"$schema": "http://json-schema.org/draft-07/schema#", "format": "ipv4"}"#,
        r#""1.2.3.4""#,
        r#""x""#,
    ),
    (r#"{"items": {"type": "string"}, "maxItems": 2}"#, r#"["a"]"#, "[1]"),
    (r#"{"items": [{"type": "string"}], "additionalItems": false}"#, r#"["a"]"#, r#"["a", 1]"#),
    (
        r#"{"prefixItems": [{"type": "string"}], "items": {"type": "null"}}"#,
        r#"["a", null]"#,
        r#"["a", 1]"#,
    ),
    (r#"{"uniqueItems": true}"#, "[1, 2]", "[1, 1.0]"),
    (r#"{"contains": {"type": "null"}}"#, "[1, null]", "[1]"),
    (r#"{"required": ["a"]}"#, r#"{"a": 1}"#, "{}"),
    (
        r#"{"properties": {"a": {"type": "null"}}, "additionalProperties": false}"#,
        r#"{"a": null}"#,
        r#"{"b": 1}"#,
    ),
    (
        r#"{"patternProperties": {"^x": {"type": "null"}}}"#,
        r#"{"xa": null, "y": 1}"#,
        r#"{"xa": 1}"#,
    ),
    (r#"{"propertyNames": {"maxLength": 1}}"#, r#"{"a": 1}"#, r#"{"ab": 1}"#),
    (r#"{"dependencies": {"a": ["b"]}}"#, r#"{"a": 1, "b": 1}"#, r#"{"a": 1}"#),
    (r#"{"dependentSchemas": {"a": {"required": ["b"]}}}"#, r#"{"b": 1}"#, r#"{"a": 1}"#),
    (r#"{"allOf": [{"type": "string"}, {"minLength": 1}]}"#, r#""a""#, r#""""#),
    (r#"{"anyOf": [{"type": "string"}, {"type": "null"}]}"#, "null", "1"),
    (r#"{"oneOf": [{"minimum": 1}, {"maximum": 3}]}"#, "0", "2"),
    (r#"{"not": {"type": "null"}}"#, "1", "null"),
    (
        r#"{"if": {"type": "string"}, "then": {"minLength": 1}, "else": {"type": "null"}}"#,
        r#""a""#,
        r#""""#,
    ),
    (r##"{"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}}"##, r#""a""#, "1"),
    (r##"{"$defs": {"a": {"$anchor": "x", "type": "string"}}, "$ref": "#x"}"##, r#""a""#, "1"),
    (
        r##"{"properties": {"n": {"$ref": "#"}}, "required": ["v"]}"##,
        r#"{"v": 1, "n": {"v": 1}}"#,
        r#"{"v": 1, "n": {}}"#,
    ),
    ("true", "1", ""),
    ("false", "", "1"),
    (r#"{"$ref": "https://example.com/x.json#/a"}"#, "1", ""),
];

#[test]
fn values_fit_or_do_not() {
    for (schema, fitting, other) in CASES {
        let count = |value: &str| {
            let value = serde_json::from_str(value).unwrap();
            faults(schema.as_bytes(), &value).unwrap().len()
        };
        if !fitting.is_empty() {
            assert_eq!(count(fitting), 0, "{schema} {fitting}");
        }
        if !other.is_empty() {
            assert_ne!(count(other), 0, "{schema} {other}");
        }
    }
}

#[test]
fn a_fault_says_where() {
    let schema = br#"{"properties": {"a": {"items": {"type": "string"}}}}"#;
    let value = serde_json::json!({"a": ["x", 1]});
    assert_eq!(faults(schema, &value).unwrap(), ["- a.1: got number, want string"]);
}

#[test]
fn schemas_that_never_end_are_stopped() {
    let endless = br##"{"$ref": "#"}"##;
    assert!(faults(endless, &Value::Null).is_err());
    assert!(faults(b"[]", &Value::Null).is_err());
    assert!(faults(b"{", &Value::Null).is_err());
    let missing = br##"{"$ref": "#/definitions/x"}"##;
    assert!(faults(missing, &Value::Null).is_err());
}
