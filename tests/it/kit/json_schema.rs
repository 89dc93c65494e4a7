//! JSON Schema, as far as our schemas use it. Also read by src/manifest/tests/schema.rs, by its path.

use regex::bytes::RegexBuilder;
use serde_json::{Map, Value};

/// Validates against the keywords of JSON Schema 2020-12 that our schemas have; panics at another one. `root` has the
/// `$defs`.
pub fn fits(root: &Value, schema: &Value, value: &Value) -> bool {
    let Value::Object(keywords) = schema else { return schema.as_bool().expect("a schema") };
    keywords.iter().all(|(keyword, rule)| match keyword.as_str() {
        "$schema" | "$defs" | "title" | "description" | "default" | "format" | "then" | "else" => true,
        "additionalProperties" => match value {
            Value::Object(map) => map
                .iter()
                .filter(|(key, _)| keywords.get("properties").and_then(|known| known.get(key)).is_none())
                .all(|(_, value)| fits(root, rule, value)),
            _ => true,
        },
        "if" => {
            let branch = if fits(root, rule, value) { "then" } else { "else" };
            keywords.get(branch).is_none_or(|schema| fits(root, schema, value))
        }
        _ => fits_keyword(root, keyword, rule, value),
    })
}

fn fits_keyword(root: &Value, keyword: &str, rule: &Value, value: &Value) -> bool {
    let all = || rule.as_array().unwrap();
    let limit = || usize::try_from(rule.as_u64().unwrap()).unwrap();
    let object = |check: &dyn Fn(&Map<String, Value>) -> bool| value.as_object().is_none_or(check);
    let text = |check: &dyn Fn(&str) -> bool| value.as_str().is_none_or(check);
    match keyword {
        "$ref" => fits(root, root.pointer(rule.as_str().unwrap().trim_start_matches('#')).unwrap(), value),
        "type" => rule.as_array().cloned().unwrap_or_else(|| vec![rule.clone()]).iter().any(|kind| is_a(value, kind)),
        "const" => rule == value,
        "enum" => all().contains(value),
        "anyOf" => all().iter().any(|schema| fits(root, schema, value)),
        "allOf" => all().iter().all(|schema| fits(root, schema, value)),
        "oneOf" => all().iter().filter(|schema| fits(root, schema, value)).count() == 1,
        "not" => !fits(root, rule, value),
        "properties" => object(&|map| {
            rule.as_object()
                .unwrap()
                .iter()
                .all(|(key, schema)| map.get(key).is_none_or(|value| fits(root, schema, value)))
        }),
        "propertyNames" => object(&|map| map.keys().all(|key| fits(root, rule, &Value::from(key.as_str())))),
        "required" => object(&|map| all().iter().all(|key| map.contains_key(key.as_str().unwrap()))),
        "minProperties" => object(&|map| map.len() >= limit()),
        "maxProperties" => object(&|map| map.len() <= limit()),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| fits(root, rule, item))),
        "maxItems" => value.as_array().is_none_or(|items| items.len() <= limit()),
        "minItems" => value.as_array().is_none_or(|items| items.len() >= limit()),
        "minLength" => text(&|text| text.chars().count() >= limit()),
        "maxLength" => text(&|text| text.chars().count() <= limit()),
        "minimum" => value.as_u64().is_none_or(|number| number >= rule.as_u64().unwrap()),
        "maximum" => value.as_u64().is_none_or(|number| number <= rule.as_u64().unwrap()),
        "pattern" => {
            let pattern = RegexBuilder::new(rule.as_str().unwrap()).unicode(false).build().expect("a pattern");
            text(&|text| pattern.is_match(text.as_bytes()))
        }
        other => panic!("the keyword {other} is not known here"),
    }
}

fn is_a(value: &Value, kind: &Value) -> bool {
    match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        other => panic!("the type {other} is not known here"),
    }
}
