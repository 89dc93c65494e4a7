//! `op`, 1Password's program (version 2). `op item list --format json` lists names; then one `op item get - --format
//! json` gets all wanted items: it reads their list on standard input, and prints a sequence of JSON objects. The keys
//! are those of that output: id, title, vault, category, fields (purpose, label, value, section), urls, files.

use std::collections::{BTreeSet, HashMap};

use deaddrop_core::secret::Secret;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::Tool;
use crate::input::context::Context;
use crate::items::item::{Entry, Field, Sink, SinkLimit, Value, in_section, select};
use crate::items::reader::{Listing, find_ids};
use crate::kinds::Kind;
use crate::spec::ProgramSpec;
use crate::{Listed, LookupError, OpenError, Reference, Source};

/// Hint for a failed call.
pub(super) const HINT: &str = "is it signed in? `eval $(op signin)`, or OP_SERVICE_ACCOUNT_TOKEN in the environment";

/// A source of kind `op`.
pub(crate) struct Op<'m> {
    tool: Tool<'m>,
}

/// An item, as both commands print it; `item list` omits the fields.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Item {
    id: String,
    title: String,
    vault: Vault,
    updated_at: Option<String>,
    urls: Vec<Url>,
    fields: Vec<ItemField>,
    files: Vec<File>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Vault {
    id: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Url {
    primary: bool,
    href: Option<Zeroizing<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ItemField {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    purpose: Option<String>,
    label: Option<String>,
    section: Option<Section>,
    value: Option<Zeroizing<String>>,
    ssh_formats: Option<SshFormats>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Section {
    label: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SshFormats {
    openssh: Option<SshFormat>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SshFormat {
    value: Option<Zeroizing<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    id: String,
    name: String,
}

impl ItemField {
    /// The name of the built-in field that this is, if it is one.
    fn built_in(&self) -> Option<&'static str> {
        match (self.purpose.as_deref(), self.kind.as_str(), self.id.as_str()) {
            (Some("PASSWORD"), ..) => Some("password"),
            (Some("USERNAME"), ..) => Some("username"),
            (Some("NOTES"), ..) => Some("notes"),
            (_, "OTP", _) => Some("totp"),
            (_, "SSHKEY", _) | (_, _, "private_key") => Some("private_key"),
            (_, _, "public_key") => Some("public_key"),
            // The field that 1Password shows as the password: of an item of that kind, an API credential, a router. Its
            // label is in the user's language.
            (_, "CONCEALED", "password" | "credential" | "wireless_password") => Some("password"),
            (_, "STRING", "username") => Some("username"),
            _ => None,
        }
    }

    /// The fields that say with `purpose` what they are come first.
    fn has_purpose(&self) -> bool {
        self.purpose.as_ref().is_some_and(|purpose| !purpose.is_empty())
    }

    /// The names by which it is found, besides that of the built-in field.
    fn other_names(&self) -> impl Iterator<Item = String> {
        let label = self.label.as_deref().unwrap_or_default();
        let section = self.section.as_ref().and_then(|section| section.label.as_deref()).unwrap_or_default();
        in_section(section, label).into_iter().chain([self.id.clone()])
    }

    fn value(&self) -> Value {
        // 1Password stores an SSH key as PKCS#8, and also prints it in OpenSSH's format, which ssh requires.
        let openssh = self.ssh_formats.as_ref().and_then(|formats| formats.openssh.as_ref()?.value.as_ref());
        Value::text(openssh.or(self.value.as_ref()).map_or("", |text| text.as_str()))
    }
}

impl Entry for Item {
    fn id(&self) -> &str {
        &self.id
    }

    fn name(&self) -> &str {
        &self.title
    }

    fn places(&self) -> Vec<&str> {
        if self.vault.id.is_empty() { Vec::new() } else { vec![&self.vault.id] }
    }

    fn changed(&self) -> Option<&str> {
        self.updated_at.as_deref()
    }

    fn fields(&self) -> Vec<Field> {
        let mut fields: Vec<Field> = Vec::new();
        let (with_purpose, others): (Vec<_>, Vec<_>) =
            self.fields.iter().filter(|field| field.value.is_some()).partition(|field| field.has_purpose());
        for field in with_purpose.into_iter().chain(others) {
            let first = |name: &&str| !fields.iter().any(|known| !known.is_custom && known.name == *name);
            if let Some(name) = field.built_in().filter(first) {
                let label = field.label.clone().unwrap_or_default();
                let names = [label].into_iter().chain(field.other_names());
                fields.push(Field::built_in_value(name, field.value()).also_called(names));
            } else if let Some(label) = field.label.as_deref() {
                fields.push(Field::custom(label, field.value()).also_called(field.other_names()));
            }
        }
        let url = self.urls.iter().find(|url| url.primary).or(self.urls.first()).and_then(|url| url.href.as_ref());
        fields.extend(url.map(|url| Field::built_in("uri", url)));
        let place = |file: &File| format!("op://{}/{}/{}", self.vault.id, self.id, file.id);
        fields.extend(self.files.iter().map(|file| Field::attachment(&file.name, place(file))));
        // Built-in ones first.
        fields.sort_by_key(|field| field.is_custom);
        fields
    }
}

impl<'m> Op<'m> {
    pub(super) fn new(tool: Tool<'m>) -> Self {
        Self { tool }
    }

    fn all(&self) -> Result<Vec<Item>, OpenError> {
        let output = self.tool.run(&["item", "list", "--format", "json"], &[]);
        let output = output.map_err(|error| self.tool.failed(error))?;
        // Without items, op prints nothing or `null`.
        let items: Option<Vec<Item>> = match output.trim_ascii() {
            [] => None,
            text => serde_json::from_slice(text).map_err(|_| self.tool.unexpected("its list is not its JSON"))?,
        };
        Ok(items.unwrap_or_default())
    }

    fn feed(&self, items: &[Item], sink: &mut dyn Sink) -> Result<(), OpenError> {
        let fed = items.iter().try_for_each(|item| {
            if !item.vault.id.is_empty() {
                sink.folder(&item.vault.id, &item.vault.name)?;
            }
            sink.item(item)
        });
        fed.map_err(|limit: SinkLimit| self.tool.unexpected(limit.to_string()))
    }

    /// The complete items of these ids.
    fn get(&self, ids: &BTreeSet<String>, all: &[Item]) -> Result<HashMap<String, Item>, OpenError> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let wanted = all.iter().filter(|item| ids.contains(&item.id));
        let wanted: Vec<_> =
            wanted.map(|item| serde_json::json!({ "id": item.id, "vault": { "id": item.vault.id } })).collect();
        let input = serde_json::Value::from(wanted).to_string();
        let output = self.tool.run(&["item", "get", "-", "--format", "json"], input.as_bytes());
        let output = output.map_err(|error| self.tool.failed(error))?;
        let unexpected = || self.tool.unexpected("an item is not its JSON");
        let mut items = HashMap::new();
        // A sequence of objects; a list of them is also accepted.
        for value in serde_json::Deserializer::from_slice(&output).into_iter::<OneOrMany>() {
            let found = match value.map_err(|_| unexpected())? {
                OneOrMany::One(item) => vec![*item],
                OneOrMany::Many(items) => items,
            };
            items.extend(found.into_iter().map(|item| (item.id.clone(), item)));
        }
        Ok(items)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<Item>),
    One(Box<Item>),
}

impl Kind for Op<'_> {
    type Spec = ProgramSpec;

    fn open<'m>(spec: &'m ProgramSpec, _: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(Op::new(Tool::new("op", HINT, spec, context)))
    }
}

impl Source for Op<'_> {
    fn fetch(&mut self, wanted: &[&Reference]) -> Result<Vec<Result<Secret, LookupError>>, OpenError> {
        let all = self.all()?;
        let ids = find_ids(wanted, |sink| self.feed(&all, sink))?;
        let items = self.get(&ids.iter().flatten().cloned().collect(), &all)?;
        let answer = |(reference, id): (&&Reference, Result<String, LookupError>)| match items.get(&id?) {
            Some(item) => select(item.fields(), reference),
            None => Err(self.tool.refused(reference, "op gave no such item")),
        };
        let answers = wanted.iter().zip(ids).map(answer).collect();
        Ok(self.tool.values(wanted, answers, |place| self.tool.run(&["read", "--no-newline", place], &[])))
    }

    fn list(&mut self) -> Result<Vec<Listed>, OpenError> {
        let all = self.all()?;
        let mut listing = Listing::default();
        self.feed(&all, &mut listing)?;
        Ok(listing.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::items::item::{Answer, names};

    fn value(item: &Item, field: Option<&str>) -> Result<String, String> {
        let reference = Reference { source: "v".into(), item: "x".into(), field: field.map(str::to_owned) };
        match select(item.fields(), &reference) {
            Ok(Answer::Value(secret)) => Ok(String::from_utf8(secret.expose().to_vec()).unwrap()),
            Ok(Answer::Attachment(_)) => unreachable!("it has none"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_purpose_or_the_id_of_a_field_decides_where_its_label_is_translated() {
        let text = r#"{"id": "a", "title": "Datenbank", "category": "DATABASE", "fields": [
            {"id": "username", "type": "STRING", "label": "Benutzername", "value": "u"},
            {"id": "password", "type": "CONCEALED", "label": "Passwort", "value": "made-up"},
            {"id": "n", "section": {"id": "s"}, "type": "STRING", "label": "Anschluss", "value": "5432"}]}"#;
        let database: Item = serde_json::from_str(text).unwrap();
        for (field, want) in [
            (None, "made-up"),
            (Some("password"), "made-up"),
            (Some("Passwort"), "made-up"),
            (Some("username"), "u"),
            (Some("Benutzername"), "u"),
            (Some("Anschluss"), "5432"),
            (Some("n"), "5432"),
        ] {
            assert_eq!(value(&database, field).as_deref(), Ok(want), "{field:?}");
        }
        let text = r#"{"id": "b", "fields": [
            {"id": "username", "section": {"id": "s", "label": "Admin"}, "type": "STRING", "label": "username",
             "value": "a"},
            {"id": "u", "type": "STRING", "purpose": "USERNAME", "label": "E-Mail", "value": "login"}]}"#;
        let login: Item = serde_json::from_str(text).unwrap();
        assert_eq!(value(&login, Some("username")).as_deref(), Ok("login"), "a purpose is stronger than an id");
        assert_eq!(value(&login, Some("Admin/username")).as_deref(), Ok("a"));
    }

    #[test]
    fn equal_labels_in_two_sections_are_told_apart_by_section_or_id() {
        let text = r#"{"id": "a", "fields": [
            {"id": "t1", "section": {"id": "s1", "label": "prod"}, "type": "CONCEALED", "label": "token", "value": "p"},
            {"id": "t2", "section": {"id": "s2", "label": "staging"}, "type": "CONCEALED", "label": "token",
             "value": "s"},
            {"id": "t3", "section": null, "type": "CONCEALED", "label": "token", "value": "none"}]}"#;
        let item: Item = serde_json::from_str(text).unwrap();
        for (field, want) in [("prod/token", "p"), ("staging/token", "s"), ("t3", "none"), ("t1", "p")] {
            assert_eq!(value(&item, Some(field)).as_deref(), Ok(want), "{field}");
        }
        assert_eq!(value(&item, Some("token")).unwrap_err(), "item \"x\" has 3 fields called \"token\"");
        assert_eq!(names(&item.fields()), ["prod/token", "staging/token", "t3"]);
    }
}
