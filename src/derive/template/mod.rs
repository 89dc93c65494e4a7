//! Templates: text with `{{ secret('SOURCE:ITEM') }}` in place of a value, in the syntax of Jinja, rendered by
//! `minijinja`.
//!
//! [`Template::parse`] reads a template once, without values: it finds every `secret('…')`, and refuses unsupported
//! parts of the language (`check`) at their place. So all references are known before a source is opened, and few
//! errors remain for [`Template::render`], which inserts the values.
//!
//! The cost of a template is bounded: its size, the tokens in a tag, and by the engine's fuel the steps and the bytes
//! of all intermediate texts. No error contains a value: the engine's own messages are used only for syntax errors,
//! when there is no value yet.
//!
//! The program's allocator zeroizes every buffer that the engine frees; the result is a [`Secret`]. Not zeroized:
//! values of up to 22 bytes, which the engine stores inline in its variables, and so for a while on the stack.

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

/// Maximum length of a template, in bytes.
pub const MAX_BYTES: u64 = 256 << 10;
/// Fuel of one rendering: a step costs 1, and 64 bytes of intermediate text cost 1. So at most 160 MB, while a value of
/// 16 MiB (`MAX_VALUE`) through a filter takes about 80.
const FUEL: u64 = 2_500_000;

/// The filters: names, and what they accept and return.
pub(super) const FILTERS: [&str; 7] =
    ["b64encode", "json", "shell_quote", "dotenv_quote", "systemd_quote", "indent", "trim"];

/// A parsed and checked template.
#[derive(Clone)]
pub struct Template {
    source: Arc<str>,
    mentions: Vec<Mention>,
    names_host: bool,
}

/// A `secret('…')` of a template; each text once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    /// The text between the quotes, unescaped.
    pub text: String,
    /// Byte range of the text between the quotes.
    pub inside: Range<usize>,
    /// True if every use is directly filtered by `b64encode`, so that the value may be any bytes.
    takes_bytes: bool,
    /// True if every use is directly filtered by `trim`, so that white space around the value has no meaning.
    pub is_trimmed: bool,
}

/// An error in a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Its byte range in the template.
    pub part: Range<usize>,
    /// One sentence without a full stop.
    pub message: String,
    /// The hint; may be empty.
    pub hint: String,
}

/// A template with errors.
#[derive(Debug, PartialEq, Eq)]
pub struct TemplateErrors {
    /// The errors; at least one.
    pub faults: Vec<Fault>,
    /// The mentions, as far as the template could be parsed.
    pub mentions: Vec<Mention>,
}

impl From<Fault> for TemplateErrors {
    fn from(fault: Fault) -> Self {
        Self { faults: vec![fault], mentions: Vec::new() }
    }
}

/// A template that cannot be rendered. Contains no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderError {
    /// The template's line, 1-based, if known.
    pub line: Option<usize>,
    /// One sentence without a full stop.
    pub reason: String,
    /// The hint; may be empty.
    pub hint: String,
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template").field("mentions", &self.mentions).finish_non_exhaustive()
    }
}

impl Template {
    /// Parses and checks a template.
    ///
    /// # Errors
    /// All faults, in order; a single one if the template cannot be parsed.
    pub fn parse(source: &str) -> Result<Self, TemplateErrors> {
        if u64::try_from(source.len()).map_or(true, |length| length > MAX_BYTES) {
            let message = format!("a template is at most {} KiB long", MAX_BYTES >> 10);
            return Err(TemplateErrors::from(Fault { part: 0..0, message, hint: String::new() }));
        }
        let found = contain(|| check::check(source)).unwrap_or_else(|| {
            let message = "the template engine fails on it".to_owned();
            Err(TemplateErrors::from(Fault { part: 0..0, message, hint: "make it simpler".to_owned() }))
        })?;
        Ok(Self { source: Arc::from(source), mentions: found.mentions, names_host: found.names_host })
    }

    /// The values that it needs.
    #[must_use]
    pub fn mentions(&self) -> &[Mention] {
        &self.mentions
    }

    /// True if it uses the host's name outside of `secret('…')`.
    #[must_use]
    pub fn names_host(&self) -> bool {
        self.names_host
    }

    /// Renders the template. `values` has one value for the text of each mention. A final newline is kept, and none is
    /// added.
    ///
    /// # Errors
    /// A value is not valid where it is used, or a limit is exceeded.
    pub fn render(&self, host: Option<&str>, values: &HashMap<&str, &Secret>) -> Result<Secret, RenderError> {
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
            // Without a host, the name is undefined, and its use is an error.
            let context = host.map_or_else(|| context! {}, |host| context! { host });
            template.render_captured_to(context, &mut out)?;
            Ok(out)
        });
        let misfit = refused.lock().unwrap_or_else(PoisonError::into_inner).take();
        match out {
            Some(Ok(mut out)) => Ok(Secret::new(std::mem::take(&mut *out.bytes))),
            Some(Err(error)) => Err(render_error(&error, misfit)),
            None => Err(RenderError {
                line: None,
                reason: "the template engine fails on it".to_owned(),
                hint: "make it simpler".to_owned(),
            }),
        }
    }

    /// The forms in which `values` may occur in the rendered text: unchanged, and quoted by each filter of the
    /// template. (The result of `b64encode` is searched for separately.)
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
                // If a filter refuses a value, the value did not pass through it, or there is no file.
                parts.extend(quote(text).ok().map(Secret::from).filter(|quoted| quoted != *value));
            }
        }
        parts
    }

    fn failure(&self, mention: &Mention, reason: String, hint: &str) -> RenderError {
        let before = self.source.get(..mention.inside.start).unwrap_or_default();
        let line = before.matches('\n').count().saturating_add(1);
        RenderError { line: Some(line), reason, hint: hint.to_owned() }
    }
}

/// The parts of the line at `part` that are outside of tags: the file's own text, which is not shown.
#[must_use]
pub fn outside_of_tags(source: &str, part: &Range<usize>) -> Vec<Range<usize>> {
    let start = floor(source, part.start);
    let line_start = source[..start].rfind('\n').map_or(0, |newline| newline.saturating_add(1));
    let line_end = source[start..].find('\n').map_or(source.len(), |length| start.saturating_add(length));
    let mut hidden = Vec::new();
    // Start of the current text outside of tags, and start of the search for the next tag.
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
        // An unclosed tag is shown to the end of its line.
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
        // OK: 0 is a character boundary, so the loop ends.
        at = at.saturating_sub(1);
    }
    at
}

/// The syntax options, the same for parsing and rendering.
fn syntax() -> SyntaxConfig {
    // OK to fall back: only delimiters can be invalid, and these are the defaults.
    SyntaxConfig::builder().keep_trailing_newline(true).build().unwrap_or_default()
}

/// A filter that may refuse.
type Quote = fn(&str) -> Result<String, quote::QuoteError>;

/// An engine with only `secret` and the filters.
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
        // Refused before it is rendered, because every line may grow.
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

/// The text of a value: only of text and integers, up to the maximum length of a file.
fn text(value: &Value) -> Result<Zeroizing<String>, Error> {
    match value.as_str() {
        Some(text) if text.len() > MAX_VALUE => Err(Error::from(ErrorKind::WriteFailure)),
        Some(text) => Ok(Zeroizing::new(text.to_owned())),
        None if value.is_integer() => Ok(Zeroizing::new(value.to_string())),
        None => Err(Error::from(ErrorKind::NonPrimitive)),
    }
}

/// Replaces the engine's message, which may contain values.
fn render_error(error: &Error, misfit: Option<Misfit>) -> RenderError {
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
    RenderError { line: error.line(), reason, hint }
}

/// An output buffer with the maximum length of a file.
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
            // The copy is explicit so that the old buffer is zeroized.
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
