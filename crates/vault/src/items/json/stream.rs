//! Parses JSON with one item in memory at a time.
//!
//! serde_json's messages can quote the input, so they are never shown. An error is a line, a column and one of our
//! messages.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Read};
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use crate::OpenError;
use crate::input::Input;
use crate::input::meter::{ExportLimit, Meter, Metered};
use crate::input::read::ReadError;
use crate::items::item::{self, Entry, LeftOut, Sink};

/// The reason why parsing stopped.
#[derive(Debug)]
pub(crate) enum JsonError {
    /// A read failed.
    Io(io::Error),
    /// The text is not JSON, or incomplete: line, column and message.
    Json(usize, usize, &'static str),
    /// A limit is exceeded.
    Limit(ExportLimit),
}

impl JsonError {
    /// The error for the export `input`; `hint` says how to create such an export.
    pub(crate) fn refused(self, input: &Input<'_>, hint: &str) -> OpenError {
        let path = input.name().to_owned();
        match self {
            Self::Io(error) => OpenError::Read { path, problem: ReadError::Io(error) },
            Self::Json(line, column, problem) => {
                input.refused(format!("line {line}, column {column}: {problem}"), format!("export it again; {hint}"))
            }
            Self::Limit(limit) => OpenError::Limit { path, limit: limit.to_string() },
        }
    }
}

/// Parses all of `file` with `seed`. `shape` is the message for JSON of another shape.
///
/// # Errors
/// The reason why parsing stopped.
pub(crate) fn parse<S>(file: Metered<'_, impl Read>, shape: &'static str, seed: S) -> Result<(), JsonError>
where
    S: for<'de> DeserializeSeed<'de, Value = ()>,
{
    let meter = file.meter();
    let mut deserializer = serde_json::Deserializer::from_reader(file);
    seed.deserialize(&mut deserializer).and_then(|()| deserializer.end()).map_err(|error| {
        if let Some(limit) = meter.limit() {
            return JsonError::Limit(limit);
        }
        // serde_json counts the columns from 0 at the start of a line.
        let (line, column) = (error.line(), error.column().max(1));
        match error.classify() {
            Category::Io => JsonError::Io(error.into()),
            Category::Eof => JsonError::Json(line, column, "the file ends in the middle of the export"),
            Category::Syntax => JsonError::Json(line, column, "this is not JSON"),
            Category::Data => JsonError::Json(line, column, shape),
        }
    })
}

/// The destination of the nested parsers: the sink, and the meter.
pub(crate) struct Feed<'r> {
    meter: &'r Meter,
    sink: RefCell<&'r mut dyn Sink>,
}

impl<'r> Feed<'r> {
    /// A destination that passes everything to `sink`.
    pub(crate) fn new(meter: &'r Meter, sink: &'r mut dyn Sink) -> Self {
        Self { meter, sink: RefCell::new(sink) }
    }

    /// Passes a folder on.
    pub(crate) fn folder<E: Error>(&self, id: &str, name: &str) -> Result<(), E> {
        self.sink.borrow_mut().folder(id, name).map_err(|limit| E::custom(self.meter.over(limit)))
    }

    /// Passes an item on.
    pub(crate) fn item(&self, item: &dyn Entry) -> Result<(), item::SinkLimit> {
        self.sink.borrow_mut().item(item)
    }

    /// Passes an item on from which no value is taken.
    pub(crate) fn left_out(&self, item: &dyn Entry, place: LeftOut) -> Result<(), item::SinkLimit> {
        self.sink.borrow_mut().left_out(item, place)
    }

    /// A seed for a list whose elements go to `take`.
    pub(crate) fn each<T, F>(&self, take: F) -> Each<'_, T, F>
    where
        F: FnMut(T) -> Result<(), item::SinkLimit>,
    {
        Each::new(self.meter, take)
    }
}

/// A parser of an object's members, one key at a time.
pub(crate) trait Object {
    /// Parses the value of `key` from `map`.
    fn value<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error>;

    /// Called at the end of the object.
    fn end<E: Error>(&mut self) -> Result<(), E> {
        Ok(())
    }
}

/// A seed for an object (or `null`), parsed by an [`Object`].
pub(crate) struct Keyed<'o, O>(pub &'o mut O);

impl<'de, O: Object> DeserializeSeed<'de> for Keyed<'_, O> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, O: Object> Visitor<'de> for Keyed<'_, O> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            self.0.value(&key, &mut map)?;
        }
        self.0.end()
    }
}

/// A seed for a list (or `null`) of objects, each parsed by the [`Object`] that `make` returns.
pub(crate) struct Objects<'r, M> {
    meter: &'r Meter,
    make: M,
}

impl<'r, M> Objects<'r, M> {
    /// A seed for a list whose objects `make` parses.
    pub(crate) fn new(feed: &'r Feed<'_>, make: M) -> Self {
        Self { meter: feed.meter, make }
    }
}

impl<'de, O: Object, M: FnMut() -> O> DeserializeSeed<'de> for Objects<'_, M> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, O: Object, M: FnMut() -> O> Visitor<'de> for Objects<'_, M> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        loop {
            let mut object = (self.make)();
            if list.next_element_seed(Keyed(&mut object))?.is_none() {
                return Ok(());
            }
            self.meter.restart();
        }
    }
}

/// A seed for a list (or `null`): each element goes to `take` and is dropped.
pub(crate) struct Each<'r, T, F> {
    meter: &'r Meter,
    take: F,
    element: PhantomData<T>,
}

impl<'r, T, F> Each<'r, T, F> {
    /// A seed whose elements go to `take`.
    pub(crate) fn new(meter: &'r Meter, take: F) -> Self {
        Self { meter, take, element: PhantomData }
    }
}

impl<'de, T: serde::Deserialize<'de>, F: FnMut(T) -> Result<(), item::SinkLimit>> DeserializeSeed<'de>
    for Each<'_, T, F>
{
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: serde::Deserialize<'de>, F: FnMut(T) -> Result<(), item::SinkLimit>> Visitor<'de> for Each<'_, T, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        while let Some(element) = list.next_element()? {
            if let Err(limit) = (self.take)(element) {
                return Err(A::Error::custom(self.meter.over(limit)));
            }
            self.meter.restart();
        }
        Ok(())
    }
}
