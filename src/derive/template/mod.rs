//! Templates: text with `{{ secret('SOURCE:ITEM') }}` where a value goes, in the syntax of Jinja, rendered by `minijinja`.
//!
//! A template is read once, by [`Template::parse`], which knows no values: it finds every `secret('…')`, and refuses whatever
//! is not in the part of the language that is meant here (`check`), at its place. So all references are known before a
//! source is opened, and what could go wrong later is little. [`Template::render`] then puts the values in.
//!
//! What a template can cost is bounded: its size, the words in a tag, and by the engine's fuel the steps and the bytes of
//! everything that it makes. No error holds a value: the engine's own words are used for syntax errors only, when no value is
//! there yet.
//!
//! What is wiped: every buffer that the engine frees, by the allocator of the program; the result is a [`Secret`]. What is
//! not: values of up to 22 bytes stand inside the engine's own variables, and so for a while in places on the stack that
//! later calls overwrite.

mod check;
mod quote;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, io};

use deaddrop_core::contain::contain;
use deaddrop_core::limits::MAX_VALUE;
use deaddrop_core::secret::Secret;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value, context};
use zeroize::Zeroizing;

use super::Misfit;

/// The longest template, in bytes.
pub const MAX_BYTES: u64 = 256 << 10;
/// What one rendering may use: a step is 1, and every 64 bytes that are made on the way are 1. So 160 MB at most, where a
/// value of 16 MiB (`MAX_VALUE`) through a filter takes about 80.
const FUEL: u64 = 2_500_000;

/// What a template may call a filter: the name, and what it takes and gives.
pub(super) const FILTERS: [&str; 7] =
    ["b64encode", "json", "shell_quote", "dotenv_quote", "systemd_quote", "indent", "trim"];

/// A template that was read and checked.
#[derive(Clone)]
pub struct Template {
    source: Arc<str>,
    mentions: Vec<Mention>,
    names_host: bool,
}

/// A `secret('…')` of a template; each text once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    /// What stands between the quotes, escapes undone.
    pub text: String,
    /// Where it stands, without the quotes: bytes of the template.
    pub inside: Range<usize>,
    /// Every use goes straight through `b64encode`, so that the value may be any bytes.
    takes_bytes: bool,
}

/// Something that is wrong with a template, where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Bytes of the template.
    pub part: Range<usize>,
    /// One sentence without a full stop.
    pub message: String,
    /// What to do; may be empty.
    pub hint: String,
}

/// A template with something wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken {
    /// What is wrong; at least one.
    pub faults: Vec<Fault>,
    /// What it mentions all the same, as far as it could be read.
    pub mentions: Vec<Mention>,
}

impl From<Fault> for Broken {
    fn from(fault: Fault) -> Self {
        Self { faults: vec![fault], mentions: Vec::new() }
    }
}

/// Why a template cannot be rendered; never a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The template's line, 1-based, where it is known.
    pub line: Option<usize>,
    /// One sentence without a full stop.
    pub reason: String,
    /// What to do; may be empty.
    pub hint: String,
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template").field("mentions", &self.mentions).finish_non_exhaustive()
    }
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// Everything that is wrong with it, in its order; one fault if it is no template at all.
    pub fn parse(source: &str) -> Result<Self, Broken> {
        if u64::try_from(source.len()).map_or(true, |length| length > MAX_BYTES) {
            let message = format!("a template is at most {} KiB long", MAX_BYTES >> 10);
            return Err(Broken::from(Fault { part: 0..0, message, hint: String::new() }));
        }
        let found = contain(|| check::check(source)).unwrap_or_else(|| {
            let message = "the template engine fails on it".to_owned();
            Err(Broken::from(Fault { part: 0..0, message, hint: "make it simpler".to_owned() }))
        })?;
        Ok(Self { source: Arc::from(source), mentions: found.mentions, names_host: found.names_host })
    }

    /// What it wants from sources.
    #[must_use]
    pub fn mentions(&self) -> &[Mention] {
        &self.mentions
    }

    /// True when the host's name is used, other than inside of `secret('…')`.
    #[must_use]
    pub fn names_host(&self) -> bool {
        self.names_host
    }

    /// Puts the values in: one for the text of each mention. The last newline stays, and none is added.
    ///
    /// # Errors
    /// A value does not fit where it is used, or the template takes too much.
    pub fn render(&self, host: Option<&str>, values: &HashMap<&str, &Secret>) -> Result<Secret, Failure> {
        let mut known: HashMap<String, Value> = HashMap::new();
        for mention in &self.mentions {
            let Some(value) = values.get(mention.text.as_str()) else {
                return Err(self.failure(mention, format!("no value was read for {}", mention.text), ""));
            };
            let value = match std::str::from_utf8(value.expose()) {
                Ok(text) => Value::from(text),
                Err(_) if mention.takes_bytes => Value::from_bytes(value.expose().to_vec()),
                Err(_) => {
                    let reason = format!("the value of {} is not UTF-8, so it cannot stand in a text", mention.text);
                    let hint = format!("write it as base64: {{{{ secret('{}') | b64encode }}}}", mention.text);
                    return Err(self.failure(mention, reason, &hint));
                }
            };
            known.insert(mention.text.clone(), value);
        }
        let refused: Arc<Mutex<Option<Misfit>>> = Arc::default();
        let out = contain(|| {
            let environment = environment(known, &refused);
            let template = environment.template_from_str(&self.source)?;
            let mut out = Bounded::default();
            // Without a host its name stays undefined, which is an error where it is used.
            let context = host.map_or_else(|| context! {}, |host| context! { host });
            template.render_captured_to(context, &mut out)?;
            Ok(out)
        });
        let misfit = refused.lock().unwrap_or_else(PoisonError::into_inner).take();
        match out {
            Some(Ok(mut out)) => Ok(Secret::new(std::mem::take(&mut *out.bytes))),
            Some(Err(error)) => Err(explained(&error, misfit)),
            None => Err(Failure {
                line: None,
                reason: "the template engine fails on it".to_owned(),
                hint: "make it simpler".to_owned(),
            }),
        }
    }

    /// What these values put into its text: each as it is, and as the filters that it names quote it. (What `b64encode` makes is
    /// looked for in everything.)
    #[must_use]
    pub fn parts(&self, values: &HashMap<&str, &Secret>) -> Vec<Secret> {
        let quotes: [(&str, Quote); 4] = [
            ("json", |text| Ok(quote::json(text))),
            ("shell_quote", quote::shell_quote),
            ("systemd_quote", quote::systemd_quote),
            ("dotenv_quote", quote::dotenv_quote),
        ];
        let mut parts: Vec<Secret> = Vec::new();
        for value in self.mentions.iter().filter_map(|mention| values.get(mention.text.as_str())) {
            parts.push((*value).clone());
            let Ok(text) = std::str::from_utf8(value.expose()) else { continue };
            for (_, quote) in quotes.iter().filter(|(name, _)| self.source.contains(name)) {
                // A value that the filter refuses did not go through it, or there is no file.
                parts.extend(quote(text).ok().map(Secret::from).filter(|quoted| quoted != *value));
            }
        }
        parts
    }

    fn failure(&self, mention: &Mention, reason: String, hint: &str) -> Failure {
        let before = self.source.get(..mention.inside.start).unwrap_or_default();
        let line = before.matches('\n').count().saturating_add(1);
        Failure { line: Some(line), reason, hint: hint.to_owned() }
    }
}

/// The parts of the line of `part` that stand outside of tags: text that is the file's own, and is not shown.
#[must_use]
pub fn outside_of_tags(source: &str, part: &Range<usize>) -> Vec<Range<usize>> {
    let start = floor(source, part.start);
    let line_start = source[..start].rfind('\n').map_or(0, |newline| newline.saturating_add(1));
    let line_end = source[start..].find('\n').map_or(source.len(), |length| start.saturating_add(length));
    let mut hidden = Vec::new();
    // Where the text began that is not in a tag, and where the search for the next tag goes on.
    let (mut outside, mut at): (usize, usize) = (0, 0);
    while let Some(brace) = source.get(at..line_end).and_then(|rest| rest.find('{')) {
        let tag = at.saturating_add(brace);
        let close = match source[tag..].chars().nth(1) {
            Some('{') => "}}",
            Some('%') => "%}",
            Some('#') => "#}",
            _ => {
                at = tag.saturating_add(1);
                continue;
            }
        };
        hidden.push(outside..tag);
        // One that is never closed is shown to the end of its line.
        let length = source[tag..].find(close).map(|length| length.saturating_add(close.len()));
        at = length.map_or(line_end, |length| tag.saturating_add(length));
        outside = at;
    }
    hidden.push(outside..source.len());
    let on_line = |part: Range<usize>| part.start.max(line_start)..part.end.min(line_end);
    hidden.into_iter().map(on_line).filter(|part| part.start < part.end).collect()
}

/// The nearest character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        // OK: 0 is a boundary, so this stops there.
        at = at.saturating_sub(1);
    }
    at
}

/// How templates are written; the same for reading and rendering.
fn syntax() -> SyntaxConfig {
    // OK to fall back: only delimiters can be wrong, and they are the usual ones.
    SyntaxConfig::builder().keep_trailing_newline(true).build().unwrap_or_default()
}

/// A filter that may refuse.
type Quote = fn(&str) -> Result<String, quote::Refusal>;

/// An engine that knows `secret` and the filters, and nothing else.
fn environment<'e>(values: HashMap<String, Value>, refused: &Arc<Mutex<Option<Misfit>>>) -> Environment<'e> {
    let mut environment = Environment::empty();
    environment.set_syntax(syntax());
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_formatter(|out, _, value| match value.as_str() {
        Some(text) => Ok(out.write_str(text)?),
        None if value.is_integer() => Ok(out.write_str(&value.to_string())?),
        None => Err(Error::from(ErrorKind::NonPrimitive)),
    });
    environment.add_function("secret", move |text: &str| {
        values.get(text).cloned().ok_or_else(|| Error::from(ErrorKind::InvalidOperation))
    });
    environment.add_filter("b64encode", |value: &Value| match value.as_bytes() {
        Some(bytes) if bytes.len() > MAX_VALUE => Err(Error::from(ErrorKind::WriteFailure)),
        Some(bytes) => Ok(quote::b64encode(bytes)),
        None => Ok(quote::b64encode(text(value)?.as_bytes())),
    });
    environment.add_filter("json", |value: &Value| Ok::<_, Error>(quote::json(&text(value)?)));
    environment.add_filter("trim", |value: &Value| Ok::<_, Error>(text(value)?.trim().to_owned()));
    environment.add_filter("indent", |value: &Value, width: usize, first: Option<bool>, _: Kwargs| {
        let text = text(value)?;
        // Refused before it is made: every line could become much longer.
        let lines = text.matches('\n').count().saturating_add(1);
        if lines.saturating_mul(width).saturating_add(text.len()) > MAX_VALUE {
            return Err(Error::from(ErrorKind::WriteFailure));
        }
        Ok(quote::indent(&text, width, first.unwrap_or(false)))
    });
    let quoting: [(&'static str, Quote); 3] = [
        ("shell_quote", quote::shell_quote),
        ("systemd_quote", quote::systemd_quote),
        ("dotenv_quote", quote::dotenv_quote),
    ];
    for (name, filter) in quoting {
        let refused = Arc::clone(refused);
        environment.add_filter(name, move |value: &Value| {
            filter(&text(value)?).map_err(|refusal| {
                let misfit = Misfit::new(format!("the filter `{name}`: {}", refusal.reason), refusal.hint);
                *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(misfit);
                Error::from(ErrorKind::InvalidOperation)
            })
        });
    }
    environment
}

/// A value as text: of text and whole numbers only, and no longer than a file may be.
fn text(value: &Value) -> Result<Zeroizing<String>, Error> {
    match value.as_str() {
        Some(text) if text.len() > MAX_VALUE => Err(Error::from(ErrorKind::WriteFailure)),
        Some(text) => Ok(Zeroizing::new(text.to_owned())),
        None if value.is_integer() => Ok(Zeroizing::new(value.to_string())),
        None => Err(Error::from(ErrorKind::NonPrimitive)),
    }
}

/// The engine's error in our words. Its own may hold values.
fn explained(error: &Error, misfit: Option<Misfit>) -> Failure {
    let (reason, hint) = match (error.kind(), misfit) {
        (_, Some(misfit)) => (misfit.reason, misfit.hint),
        (ErrorKind::OutOfFuel, None) => (
            "the template takes too many steps, or makes over 160 MB on its way".to_owned(),
            "make its loops shorter, or share it out over several secrets".to_owned(),
        ),
        (ErrorKind::WriteFailure, None) => (
            format!("a text would be over {} MiB, the longest that is written", MAX_VALUE >> 20),
            "is this the right item and field?".to_owned(),
        ),
        (ErrorKind::UndefinedError, None) => (
            "a name is used that is not defined here".to_owned(),
            "`set` it before, outside of loops and conditions".to_owned(),
        ),
        (ErrorKind::NonPrimitive, None) => {
            ("something is written that is neither text nor a whole number".to_owned(), String::new())
        }
        (kind, None) => (format!("it cannot be rendered: {kind}"), String::new()),
    };
    Failure { line: error.line(), reason, hint }
}

/// What is rendered, up to the longest file.
#[derive(Default)]
struct Bounded {
    bytes: Zeroizing<Vec<u8>>,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.bytes.len().saturating_add(bytes.len());
        if length > MAX_VALUE {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if length > self.bytes.capacity() {
            // By hand, so that the old buffer is wiped.
            let mut larger = Zeroizing::new(Vec::with_capacity(length.saturating_mul(2).clamp(1024, MAX_VALUE)));
            larger.extend_from_slice(&self.bytes);
            self.bytes = larger;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
