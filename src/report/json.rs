//! The objects of `--json`, a stable interface (docs/json.md).

use deaddrop_core::warning::Warning;
use deaddrop_vault::Listed;
use serde_json::{Value, json};

use crate::run::plan::{Action, Plan};
use crate::run::scan::Scanned;

/// The object of `plan`, `inject` and `verify`.
#[must_use]
pub fn plan(command: &str, target: &str, plan: &Plan) -> Value {
    let changes: Vec<Value> = plan
        .changes
        .iter()
        .map(|change| {
            let mut object = json!({ "secret": change.secret, "path": change.path, "action": change.action.name() });
            if let Some(written_to) = &change.written_to {
                object["written_to"] = json!(written_to);
            }
            object
        })
        .collect();
    json!({
        "version": 1,
        "command": command,
        "target": target,
        "changes": changes,
        "warnings": warnings(&plan.warnings),
        "summary": {
            "create": plan.count(Action::Create),
            "replace": plan.count(Action::Replace),
            "metadata": plan.count(Action::Metadata),
            "unchanged": plan.count(Action::Unchanged),
            "remove": plan.count(Action::Remove),
        },
    })
}

/// The object of `tree`: that of [`plan`], with the words for the tool that takes the tree.
#[must_use]
pub fn tree(target: &str, plan: &Plan, words: &[String]) -> Value {
    let mut object = self::plan("tree", target, plan);
    object["words"] = json!(words);
    object
}

/// The object of `flash` without arguments: the devices, each with its description and what uses it.
#[must_use]
pub fn devices(devices: &[(String, String, Option<String>)]) -> Value {
    let devices: Vec<Value> = devices
        .iter()
        .map(|(device, description, in_use)| json!({ "device": device, "description": description, "in_use": in_use }))
        .collect();
    json!({ "version": 1, "command": "flash", "devices": devices })
}

/// The list of warnings: `[{code, secret, message}]`; `secret` is null for one about the target as a whole.
#[must_use]
pub fn warnings(warnings: &[Warning]) -> Value {
    warnings
        .iter()
        .map(|warning| {
            let message = format!("{}: {}", warning.message, warning.hint);
            json!({ "code": warning.code, "secret": warning.secret, "message": message })
        })
        .collect()
}

/// The object of `check`: without a target, and so without changes.
#[must_use]
pub fn check(manifest: &str, secrets: usize, found: &[Warning]) -> Value {
    json!({
        "version": 1,
        "command": "check",
        "target": Value::Null,
        "manifest": manifest,
        "changes": [],
        "warnings": warnings(found),
        "summary": { "secrets": secrets },
    })
}

/// The object of `init`: the numbers of the written manifest.
#[must_use]
pub fn init(manifest: &str, hosts: usize, secrets: usize) -> Value {
    json!({
        "version": 1,
        "command": "init",
        "target": Value::Null,
        "manifest": manifest,
        "changes": [],
        "warnings": [],
        "summary": { "hosts": hosts, "secrets": secrets },
    })
}

/// The object of `recover` and `scrub`; `changed` is true if anything was written.
#[must_use]
pub fn maintenance(command: &str, target: &str, changed: bool) -> Value {
    json!({
        "version": 1,
        "command": command,
        "target": target,
        "changes": [],
        "warnings": [],
        "summary": { "changed": changed },
    })
}

/// The object of `scan`.
#[must_use]
pub fn scan(target: &str, scanned: &Scanned, found: &[Warning]) -> Value {
    let findings: Vec<Value> = scanned
        .findings
        .iter()
        .map(|finding| json!({ "secret": finding.secret, "path": finding.path, "form": finding.form.name() }))
        .collect();
    json!({
        "version": 1,
        "command": "scan",
        "target": target,
        "changes": [],
        "findings": findings,
        "warnings": warnings(found),
        "summary": { "findings": scanned.total, "skipped": scanned.skipped },
    })
}

/// The object of `sources list`: the items of a source, by name.
#[must_use]
pub fn sources(name: &str, items: &[Listed], found: &[Warning]) -> Value {
    let listed: Vec<Value> = items
        .iter()
        .map(|item| json!({ "folders": item.folders, "name": item.name, "id": item.id, "fields": item.fields }))
        .collect();
    json!({
        "version": 1,
        "command": "sources list",
        "target": Value::Null,
        "source": name,
        "items": listed,
        "changes": [],
        "warnings": warnings(found),
        "summary": { "items": items.len() },
    })
}
