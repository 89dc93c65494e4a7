//! Reads JSON from beginning to end, one item in memory at a time.
//!
//! serde_json's own messages are never shown: they can quote what they met. What is told is a line, a column and one of
//! our sentences.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Read};
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use crate::OpenError;
use crate::input::Input;
use crate::input::meter::{Limit, Meter, Metered};
use crate::input::read::ReadError;
use crate::items::item::{self, Entry, Sink};

/// Why reading stopped.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The system says no.
    Io(io::Error),
    /// Not JSON, or not all of it, at a line and column.
    Json(usize, usize, &'static str),
    /// Over a limit.
    Limit(Limit),
}

impl Failure {
    /// The refusal of the export `input`; `hint` says how such an export is made.
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

/// Reads all of `file` with `seed`. `shape` is what is said of JSON that is something else.
///
/// # Errors
/// What stopped it.
pub(crate) fn parse<S>(file: Metered<'_, impl Read>, shape: &'static str, seed: S) -> Result<(), Failure>
where
    S: for<'de> DeserializeSeed<'de, Value = ()>,
{
    let meter = file.meter();
    let mut deserializer = serde_json::Deserializer::from_reader(file);
    seed.deserialize(&mut deserializer).and_then(|()| deserializer.end()).map_err(|error| {
        if let Some(limit) = meter.limit() {
            return Failure::Limit(limit);
        }
        // serde_json counts the columns of a line that has just begun from 0.
        let (line, column) = (error.line(), error.column().max(1));
        match error.classify() {
            Category::Io => Failure::Io(error.into()),
            Category::Eof => Failure::Json(line, column, "the file ends in the middle of the export"),
            Category::Syntax => Failure::Json(line, column, "this is not JSON"),
            Category::Data => Failure::Json(line, column, shape),
        }
    })
}

/// Where the readers of nested objects put what they find.
pub(crate) struct Feed<'r> {
    meter: &'r Meter,
    sink: RefCell<&'r mut dyn Sink>,
}

impl<'r> Feed<'r> {
    /// What is found goes to `sink`.
    pub(crate) fn new(meter: &'r Meter, sink: &'r mut dyn Sink) -> Self {
        Self { meter, sink: RefCell::new(sink) }
    }

    /// Hands on a folder.
    pub(crate) fn folder<E: Error>(&self, id: &str, name: &str) -> Result<(), E> {
        self.sink.borrow_mut().folder(id, name).map_err(|limit| E::custom(self.meter.over(limit)))
    }

    /// Hands on an item.
    pub(crate) fn item(&self, item: &dyn Entry) -> Result<(), item::Limit> {
        self.sink.borrow_mut().item(item)
    }

    /// The elements of a list, for `take`.
    pub(crate) fn each<T, F>(&self, take: F) -> Each<'_, T, F>
    where
        F: FnMut(T) -> Result<(), item::Limit>,
    {
        Each::new(self.meter, take)
    }
}

/// Who reads the values of an object, key by key, as they come.
pub(crate) trait Object {
    /// Reads the value of `key` from `map`.
    fn value<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error>;

    /// Called when the object has ended.
    fn end<E: Error>(&mut self) -> Result<(), E> {
        Ok(())
    }
}

/// An object (or `null`), read by an [`Object`].
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

/// A list (or `null`) of objects, each read by an [`Object`] that `make` makes for it.
pub(crate) struct Objects<'r, M> {
    meter: &'r Meter,
    make: M,
}

impl<'r, M> Objects<'r, M> {
    /// Objects for those that `make` makes.
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

/// A list (or `null`), each of whose elements goes to `take` and is gone.
pub(crate) struct Each<'r, T, F> {
    meter: &'r Meter,
    take: F,
    element: PhantomData<T>,
}

impl<'r, T, F> Each<'r, T, F> {
    /// Elements for `take`.
    pub(crate) fn new(meter: &'r Meter, take: F) -> Self {
        Self { meter, take, element: PhantomData }
    }
}

impl<'de, T: serde::Deserialize<'de>, F: FnMut(T) -> Result<(), item::Limit>> DeserializeSeed<'de> for Each<'_, T, F> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: serde::Deserialize<'de>, F: FnMut(T) -> Result<(), item::Limit>> Visitor<'de> for Each<'_, T, F> {
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
