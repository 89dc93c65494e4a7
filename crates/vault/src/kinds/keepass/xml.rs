//! Parses the XML document, one entry in memory at a time.
//!
//! Protected values are encrypted with one key stream in document order, so all of them are decrypted, even unwanted
//! ones.

use std::cell::Cell;
use std::io::{BufReader, Read};
use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use deaddrop_core::day::day;
use deaddrop_core::limits::MAX_VALUE;
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use zeroize::Zeroizing;

use super::entry::{Attached, Entry};
use super::inner::Inner;
use super::{Stop, gunzip};

/// Maximum length of an entry, text or attachment, in bytes of the document.
const MAX_ITEM: u64 = 64 << 20;
/// Maximum number of strings, and of attachments, of an entry.
const MOST_FIELDS: usize = 1000;
/// Maximum nesting depth of groups, and of other elements.
const MAX_DEPTH: usize = 100;

/// Receives groups and entries.
pub(super) trait Visitor {
    /// A group: its UUID, and the names of the groups from the root group to it.
    ///
    /// # Errors
    /// The visitor stops the parser.
    fn group(&mut self, uuid: &[u8; 16], path: &[String]) -> Result<(), Stop>;

    /// An entry of the group `group`, outside the recycle bin.
    ///
    /// # Errors
    /// The visitor stops the parser.
    fn entry(&mut self, entry: Entry, group: &[u8; 16]) -> Result<(), Stop>;
}

/// Parses the whole document. `header`: the hash of a header that only the document authenticates (version 3).
///
/// # Errors
/// The document is damaged or has another header's hash, a limit is exceeded, or the visitor stops.
pub(super) fn read(
    document: impl Read,
    inner: Inner,
    header: Option<&[u8; 32]>,
    visitor: &mut dyn Visitor,
) -> Result<(), Stop> {
    let mut walk = Walk::new(document, inner);
    let mut seen = false;
    while let Some(element) = walk.next()? {
        if element.name != "KeePassFile" || seen {
            return Err(Stop::Damaged("the document inside is not KeePass's"));
        }
        seen = true;
        let mut bin = None;
        let mut entered = false;
        while let Some(child) = walk.next()? {
            match child.name.as_str() {
                "Meta" => {
                    let found = walk.meta(header)?;
                    bin = if entered { bin } else { found };
                }
                "Root" => {
                    entered = true;
                    while let Some(child) = walk.next()? {
                        match child.name.as_str() {
                            "Group" => walk.group(&mut Vec::new(), bin, false, visitor)?,
                            _ => walk.skip(&child)?,
                        }
                    }
                }
                _ => walk.skip(&child)?,
            }
        }
    }
    if seen { Ok(()) } else { Err(Stop::Damaged("the document inside is empty")) }
}

/// Version 3: the attachment with the `ID` `id`, from `Meta/Binaries`.
///
/// # Errors
/// It does not exist, is too long, or is damaged.
pub(super) fn binary(document: impl Read, inner: Inner, id: &str) -> Result<Zeroizing<Vec<u8>>, Stop> {
    let mut walk = Walk::new(document, inner);
    while let Some(element) = walk.next()? {
        match element.name.as_str() {
            // Descend: the next element is its first child.
            "KeePassFile" | "Meta" | "Binaries" => {}
            "Binary" if element.id.as_deref() == Some(id) => {
                let bytes = walk.content(&element, true)?;
                return if element.compressed { gunzip(&bytes, MAX_VALUE) } else { Ok(bytes) };
            }
            _ => walk.skip(&element)?,
        }
    }
    Err(Stop::Damaged(NO_BINARY))
}

/// Message for an attachment that an entry names and the database lacks.
pub(super) const NO_BINARY: &str = "the database does not have the attachment that the entry names";

/// The start of an element.
struct Element {
    name: String,
    /// `Protected="True"`
    protected: bool,
    /// `Compressed="True"`
    compressed: bool,
    /// `ID`
    id: Option<String>,
    /// `Ref`
    reference: Option<String>,
}

/// A cursor over the elements of the document.
struct Walk<R: Read> {
    reader: Reader<BufReader<Metered<R>>>,
    meter: Rc<Meter>,
    buffer: Zeroizing<Vec<u8>>,
    inner: Inner,
    /// Depth of the current element.
    open: usize,
}

impl<R: Read> Walk<R> {
    fn new(document: R, inner: Inner) -> Self {
        let meter = Rc::new(Meter::default());
        let metered = Metered { inner: document, meter: Rc::clone(&meter) };
        let mut reader = Reader::from_reader(BufReader::with_capacity(64 << 10, metered));
        reader.config_mut().expand_empty_elements = true;
        Self { reader, meter, buffer: Zeroizing::default(), inner, open: 0 }
    }

    /// Enters the next child of the current element; `None` at the current element's end, which leaves it.
    fn next(&mut self) -> Result<Option<Element>, Stop> {
        loop {
            match self.event()? {
                XmlEvent::Start(element) => return Ok(Some(element)),
                XmlEvent::End => return Ok(None),
                XmlEvent::Text(_) => {}
            }
        }
    }

    /// The next XML event. A text may be several events.
    fn event(&mut self) -> Result<XmlEvent, Stop> {
        self.buffer.clear();
        self.meter.since.set(0);
        let event = self.reader.read_event_into(&mut self.buffer);
        let event = event.map_err(|_| self.meter.over.get().map_or(DAMAGED, |what| Stop::Over(what.to_owned())))?;
        Ok(match event {
            Event::Start(start) => {
                self.open = self.open.saturating_add(1);
                if self.open > MAX_DEPTH {
                    return Err(Stop::Over(format!(
                        "its groups are nested over {MAX_DEPTH} deep, the most that is taken"
                    )));
                }
                XmlEvent::Start(element(&start)?)
            }
            Event::End(_) => {
                self.open = self.open.saturating_sub(1);
                XmlEvent::End
            }
            // An end tag without a start tag is an error of the XML reader; this is the end of the document.
            Event::Eof if self.open == 0 => XmlEvent::End,
            Event::Eof => return Err(DAMAGED),
            Event::Text(text) => XmlEvent::Text(Zeroizing::new(text.xml10_content().into_owned())),
            Event::CData(text) => XmlEvent::Text(Zeroizing::new(text.xml10_content().into_owned())),
            Event::GeneralRef(reference) => {
                let c = match reference.resolve_char_ref().map_err(|_| DAMAGED)? {
                    Some(c) => c,
                    None => match reference.xml10_content().as_ref() {
                        "lt" => '<',
                        "gt" => '>',
                        "amp" => '&',
                        "quot" => '"',
                        "apos" => '\'',
                        _ => return Err(DAMAGED),
                    },
                };
                XmlEvent::Text(Zeroizing::new(c.to_string()))
            }
            // KeePass writes none, and entities could expand to unbounded text.
            Event::DocType(_) => return Err(DAMAGED),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::Empty(_) => XmlEvent::Text(Zeroizing::default()),
        })
    }

    /// Skips the rest of `element`, which is the current one.
    fn skip(&mut self, element: &Element) -> Result<(), Stop> {
        if element.protected {
            return self.content(element, false).map(drop);
        }
        while let Some(child) = self.next()? {
            self.skip(&child)?;
        }
        Ok(())
    }

    /// The content of `element`, which is the current one, to its end: text, or the decoded bytes if it is protected
    /// or, with `is_binary`, always base64.
    fn content(&mut self, element: &Element, is_binary: bool) -> Result<Zeroizing<Vec<u8>>, Stop> {
        let mut text = Zeroizing::new(Vec::new());
        loop {
            match self.event()? {
                XmlEvent::Text(piece) => append(&mut text, piece.as_bytes())?,
                XmlEvent::Start(child) => self.skip(&child)?,
                XmlEvent::End => break,
            }
        }
        if !element.protected && !is_binary {
            return Ok(text);
        }
        text.retain(|byte| !byte.is_ascii_whitespace());
        let mut bytes = Zeroizing::new(STANDARD.decode(&*text).map_err(|_| DAMAGED)?);
        if element.protected {
            self.inner.apply(&mut bytes);
        }
        Ok(bytes)
    }

    /// The content as a name.
    fn text(&mut self, element: &Element) -> Result<String, Stop> {
        self.content(element, false).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn uuid(&mut self, element: &Element) -> Result<[u8; 16], Stop> {
        let text = self.text(element)?;
        STANDARD.decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(DAMAGED)
    }

    /// `Meta`: the UUID of the recycle bin, if there is one. `HeaderHash` must be `header`, the SHA-256 of the whole
    /// header, if both are there (KeePassXC's `Kdbx3Reader`); KeePass before 2.20 writes none.
    fn meta(&mut self, header: Option<&[u8; 32]>) -> Result<Option<[u8; 16]>, Stop> {
        let (mut enabled, mut bin) = (true, None);
        while let Some(child) = self.next()? {
            match child.name.as_str() {
                "RecycleBinEnabled" => enabled = !self.text(&child)?.trim().eq_ignore_ascii_case("false"),
                "RecycleBinUUID" => bin = Some(self.uuid(&child)?),
                "HeaderHash" => {
                    let hash = self.content(&child, true)?;
                    if header.is_some_and(|header| !hash.is_empty() && *hash != header) {
                        return Err(Stop::Damaged(OTHER_HEADER));
                    }
                }
                _ => self.skip(&child)?,
            }
        }
        Ok(bin.filter(|uuid| enabled && *uuid != [0; 16]))
    }

    /// `Group` and its descendants. `above` holds the names of its parents.
    fn group(
        &mut self,
        above: &mut Vec<String>,
        bin: Option<[u8; 16]>,
        in_bin: bool,
        visitor: &mut dyn Visitor,
    ) -> Result<(), Stop> {
        let (mut uuid, mut name, mut in_bin) = (None, None, in_bin);
        // The UUID and the name precede the group's content.
        let mut known = None;
        while let Some(child) = self.next()? {
            match child.name.as_str() {
                "UUID" if known.is_none() => uuid = Some(self.uuid(&child)?),
                "Name" if known.is_none() => name = Some(self.text(&child)?),
                kind @ ("Entry" | "Group") => {
                    let uuid = match known {
                        Some(uuid) => uuid,
                        None => {
                            let uuid = uuid.ok_or(DAMAGED)?;
                            in_bin = in_bin || bin == Some(uuid);
                            above.push(name.take().unwrap_or_default());
                            if !in_bin {
                                visitor.group(&uuid, above)?;
                            }
                            *known.insert(uuid)
                        }
                    };
                    match kind {
                        "Group" => self.group(above, bin, in_bin, visitor)?,
                        _ if in_bin => self.skip(&child)?,
                        _ => {
                            let entry = self.entry()?;
                            visitor.entry(entry, &uuid)?;
                        }
                    }
                }
                _ => self.skip(&child)?,
            }
        }
        if known.is_some() {
            above.pop();
        }
        Ok(())
    }

    /// `Entry`, without its history.
    fn entry(&mut self) -> Result<Entry, Stop> {
        let mut entry = Entry::default();
        let mut size: u64 = 0;
        let mut uuid = None;
        while let Some(child) = self.next()? {
            match child.name.as_str() {
                "UUID" => uuid = Some(self.uuid(&child)?),
                "Times" => {
                    while let Some(time) = self.next()? {
                        match time.name.as_str() {
                            "LastModificationTime" => entry.changed = changed(&self.text(&time)?),
                            _ => self.skip(&time)?,
                        }
                    }
                }
                "String" | "Binary" => {
                    if entry.strings.len().max(entry.attached.len()) >= MOST_FIELDS {
                        return Err(Stop::Over(format!(
                            "an entry has over {MOST_FIELDS} fields, the most that is taken"
                        )));
                    }
                    let is_binary = child.name == "Binary";
                    let (mut key, mut value, mut reference) = (String::new(), Zeroizing::default(), None);
                    while let Some(part) = self.next()? {
                        match part.name.as_str() {
                            "Key" => key = self.text(&part)?,
                            "Value" if part.reference.is_some() => {
                                self.skip(&part)?;
                                reference = part.reference;
                            }
                            "Value" => {
                                value = self.content(&part, is_binary)?;
                                if is_binary && part.compressed {
                                    value = gunzip(&value, MAX_VALUE)?;
                                }
                            }
                            _ => self.skip(&part)?,
                        }
                    }
                    size =
                        size.saturating_add(u64::try_from(key.len().saturating_add(value.len())).unwrap_or(u64::MAX));
                    if size > MAX_ITEM {
                        return Err(Stop::Over(TOO_LONG.to_owned()));
                    }
                    match (is_binary, reference) {
                        (false, _) => entry.strings.push((key, value)),
                        (true, Some(reference)) => entry.attached.push((key, Attached::Reference(reference))),
                        (true, None) => entry.attached.push((key, Attached::Bytes(value))),
                    }
                }
                _ => self.skip(&child)?,
            }
        }
        entry.set_uuid(&uuid.ok_or(DAMAGED)?);
        Ok(entry)
    }
}

const DAMAGED: Stop = Stop::Damaged("the document inside is damaged");
/// Message for a header that was changed after the database was saved.
pub(super) const OTHER_HEADER: &str = "its header is damaged: it does not have the hash that the document inside says";
const TOO_LONG: &str = "an entry in it is over 64 MiB, the longest that is read";

/// An XML event.
enum XmlEvent {
    Start(Element),
    Text(Zeroizing<String>),
    /// The end of the current element, or of the document.
    End,
}

fn element(start: &BytesStart<'_>) -> Result<Element, Stop> {
    let attribute = |name: &str| match start.try_get_attribute(name) {
        Ok(attribute) => Ok(attribute.map(|attribute| attribute.value.to_string())),
        Err(_) => Err(DAMAGED),
    };
    let is_true = |text: Option<String>| text.is_some_and(|text| text.eq_ignore_ascii_case("true"));
    Ok(Element {
        name: start.name().as_ref().to_owned(),
        protected: is_true(attribute("Protected")?),
        compressed: is_true(attribute("Compressed")?),
        id: attribute("ID")?,
        reference: attribute("Ref")?,
    })
}

/// Appends without leaving a copy: a full buffer is replaced by one of twice its length, and zeroized.
fn append(text: &mut Zeroizing<Vec<u8>>, piece: &[u8]) -> Result<(), Stop> {
    let length = text.len().saturating_add(piece.len());
    if u64::try_from(length).map_or(true, |length| length > MAX_ITEM) {
        return Err(Stop::Over(TOO_LONG.to_owned()));
    }
    if length > text.capacity() {
        let exact = text.is_empty();
        let mut larger = Vec::with_capacity(if exact { length } else { length.saturating_mul(2) });
        larger.extend_from_slice(text);
        *text = Zeroizing::new(larger);
    }
    text.extend_from_slice(piece);
    Ok(())
}

/// The day of a time: RFC 3339 in version 3; in version 4 base64 of an `i64`, the seconds since the year 1.
fn changed(text: &str) -> Option<String> {
    const TO_1970: i64 = 719_162 * 86_400;
    match STANDARD.decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok()) {
        Some(seconds) => day(i64::from_le_bytes(seconds).checked_sub(TO_1970)?),
        None => Some(text.trim().to_owned()),
    }
}

/// Counters of a [`Metered`] reader.
#[derive(Default)]
struct Meter {
    /// Bytes since the last event.
    since: Cell<u64>,
    /// Bytes of the whole document.
    all: Cell<u64>,
    /// The limit that was exceeded.
    over: Cell<Option<&'static str>>,
}

/// A reader that stops at the limits.
struct Metered<R> {
    inner: R,
    meter: Rc<Meter>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let meter = &self.meter;
        let bytes = u64::try_from(count).unwrap_or(u64::MAX);
        meter.since.set(meter.since.get().saturating_add(bytes));
        meter.all.set(meter.all.get().saturating_add(bytes));
        if meter.all.get() > super::MAX_DOCUMENT {
            meter.over.set(Some("the document inside is over 512 MiB, the longest that is read"));
        } else if meter.since.get() > MAX_ITEM.saturating_mul(2) {
            meter.over.set(Some(TOO_LONG));
        }
        match meter.over.get() {
            None => Ok(count),
            Some(what) => Err(std::io::Error::other(what)),
        }
    }
}
