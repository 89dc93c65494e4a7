//! Templates of a manifest: reads and checks them, and resolves their `secret('…')`. A problem is reported at its
//! place in the manifest, or in the template's own file. Of such a line only the tags are shown, because the rest is
//! the file's text.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deaddrop_core::keys::{self, NodeId, Refusal};
use deaddrop_vault::Reference;

use super::check::Checker;
use super::excerpt::{self, Excerpt};
use super::model::TemplateSpec;
use super::problem::{Elsewhere, Mark, clamp};
use super::{read, values};
use crate::derive::template::{self, Fault, Mention, Template, TemplateErrors};

/// Maximum total length of all templates, in bytes.
const MAX_TOTAL: usize = 16 << 20;

/// Maximum number of faults in templates, after which no more are read.
const MAX_FAULTS: usize = 1000;
/// Maximum number of parts of a line that are hidden separately; above it, the whole template is hidden.
const MAX_HIDDEN: usize = 50;

/// A template, and the reference of each of its mentions.
type Resolved = (Arc<Template>, Vec<(String, Reference)>);

/// Templates read so far: each file is read once.
#[derive(Default)]
pub(super) struct Templates {
    files: HashMap<PathBuf, Option<Resolved>>,
    total: usize,
    faults: usize,
}

/// The location of a template, which maps a part of it to a place.
#[derive(Clone, Copy)]
enum Home<'h> {
    Manifest,
    File(&'h str),
}

impl Checker<'_, '_> {
    /// Checks `template`.
    pub(super) fn template(&self, id: NodeId, text: &str) -> Option<TemplateSpec> {
        let (template, references) = self.read_template(id, text, Home::Manifest)?;
        Some(TemplateSpec { file: None, template, references })
    }

    /// Checks `template_file`, and its content.
    pub(super) fn template_file(&self, id: NodeId, name: &str) -> Option<TemplateSpec> {
        self.accept(id, keys::text(name, "`template_file`"))?;
        let path = self.directory.join(name);
        let known = self.templates.borrow().files.get(&path).cloned();
        let read = match known {
            Some(known) => known,
            None => {
                let read = self.open_template(id, name, &path);
                self.templates.borrow_mut().files.insert(path, read.clone());
                read
            }
        };
        let (template, references) = read?;
        Some(TemplateSpec { file: Some(name.to_owned()), template, references })
    }

    fn open_template(&self, id: NodeId, name: &str, path: &Path) -> Option<Resolved> {
        const MANIFEST: &str = "a relative path starts at the manifest's directory; with -m -, at the current one";
        let bytes = match read::bytes(path, template::MAX_BYTES, "a template") {
            Ok(bytes) => bytes,
            Err(read::ReadError::Missing) => {
                self.push(self.mark(id), "there is no such file", Some(MANIFEST.to_owned()));
                return None;
            }
            Err(read::ReadError::Other(message)) => {
                self.push(self.mark(id), format!("the template {message}"), None);
                return None;
            }
        };
        match String::from_utf8(bytes) {
            Ok(text) => self.read_template(id, &text, Home::File(name)),
            Err(_) => {
                self.push(self.mark(id), "the template is not UTF-8", Some("save the file as UTF-8".to_owned()));
                None
            }
        }
    }

    /// Parses a template, and resolves its references.
    fn read_template(&self, id: NodeId, text: &str, home: Home<'_>) -> Option<Resolved> {
        let (total, faults) = {
            let mut templates = self.templates.borrow_mut();
            templates.total = templates.total.saturating_add(text.len());
            (templates.total, templates.faults)
        };
        if faults >= MAX_FAULTS {
            return None;
        }
        if total > MAX_TOTAL {
            self.push(self.mark(id), "all templates together are over 16 MiB, the limit of a manifest", None);
            return None;
        }
        let (template, mentions) = match Template::parse(text) {
            Ok(template) => {
                let mentions = template.mentions().to_vec();
                (Some(template), mentions)
            }
            Err(TemplateErrors { faults, mentions }) => {
                faults.into_iter().for_each(|fault| self.report(id, text, home, fault));
                (None, mentions)
            }
        };
        let mut references = Vec::new();
        let mut good = true;
        for Mention { text: literal, inside, .. } in mentions {
            match self.mentioned_reference(&literal) {
                Ok(reference) => references.push((literal, reference)),
                Err(refusal) => {
                    // The part of the literal, if it is written without escapes.
                    let part = refusal.part.filter(|_| text.get(inside.clone()) == Some(literal.as_str()));
                    let part = part.map_or(inside.clone(), |part| {
                        inside.start.saturating_add(part.start)..inside.start.saturating_add(part.end)
                    });
                    let fault = Fault { part, message: refusal.message, hint: refusal.hint.unwrap_or_default() };
                    self.report(id, text, home, fault);
                    good = false;
                }
            }
        }
        template.filter(|_| good).map(|template| (Arc::new(template), references))
    }

    /// The reference of a `secret('…')`.
    fn mentioned_reference(&self, text: &str) -> Result<Reference, Refusal> {
        let parts = values::reference(text)?;
        let reference = Reference {
            source: text[parts.source.clone()].to_owned(),
            item: text[parts.item.clone()].to_owned(),
            field: parts.field.clone().map(|field| text[field].to_owned()),
        };
        self.check_reference(&reference).map_err(|(wrong, refusal)| {
            let part = match wrong {
                super::refer::ReferencePart::Source => parts.source,
                super::refer::ReferencePart::Item => parts.item,
                super::refer::ReferencePart::Field => parts.field.unwrap_or(parts.item),
            };
            Refusal { part: Some(part), ..refusal }
        })?;
        Ok(reference)
    }

    fn report(&self, id: NodeId, text: &str, home: Home<'_>, fault: Fault) {
        {
            let mut templates = self.templates.borrow_mut();
            templates.faults = templates.faults.saturating_add(1);
            if templates.faults > MAX_FAULTS {
                return;
            }
        }
        let hint = Some(fault.hint).filter(|hint| !hint.is_empty());
        let hidden = template::outside_of_tags(text, &fault.part);
        match home {
            Home::Manifest => {
                let tree = self.context.tree;
                let exact = tree.exact_part(id, fault.part.clone());
                let mut problems = self.context.problems.borrow_mut();
                match exact.filter(|_| hidden.len() <= MAX_HIDDEN) {
                    Some(mark) => {
                        let hidden = hidden.into_iter().filter_map(|part| tree.exact_part(id, part));
                        hidden.for_each(|part| problems.veil(part));
                        problems.push(mark, fault.message, hint);
                    }
                    None => {
                        problems.veil(tree.resolve(id).mark);
                        let line = place(text, &fault.part).line;
                        problems.push(tree.mark(id), format!("line {line} of the template: {}", fault.message), hint);
                    }
                }
            }
            Home::File(file) => {
                let mark = place(text, &fault.part);
                let hidden: Vec<(usize, usize)> = hidden.into_iter().map(|part| (part.start, part.end)).collect();
                let line: Excerpt = excerpt::cut(text, mark, &hidden);
                let elsewhere = Elsewhere { file: self.next_to_manifest(file), mark, line };
                self.context.problems.borrow_mut().push_elsewhere(self.mark(id), elsewhere, fault.message, hint);
            }
        }
    }

    /// The file relative to the current directory: it is in the directory of the manifest, as the user named that.
    fn next_to_manifest(&self, name: &str) -> String {
        match self.directory.as_path() {
            directory if directory == Path::new(".") => name.to_owned(),
            directory => directory.join(name).display().to_string(),
        }
    }
}

/// The start of a part of a text, and its length on that line.
fn place(text: &str, part: &Range<usize>) -> Mark {
    let before = text.get(..part.start).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline.saturating_add(1));
    let line = before.matches('\n').count().saturating_add(1);
    let mut mark = Mark::at(before.len(), line, before[line_start..].chars().count().saturating_add(1));
    mark.end = clamp(part.end.max(before.len()));
    mark
}
