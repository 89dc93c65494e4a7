//! `vals`: an item is a vals expression, `ref+BACKEND://PATH#/KEY`. All expressions are passed to one call as a YAML
//! document on standard input (`vals eval -f - -o json`), so that none is visible as an argument.

use deaddrop_core::secret::Secret;
use serde_json::{Map, Value};

use super::{REPLACED, Tool};
use crate::error::{item, shown};
use crate::input::context::Context;
use crate::items::replaced;
use crate::kinds::Kind;
use crate::spec::ProgramSpec;
use crate::{Listed, LookupError, OpenError, Reference, Source};

/// Hint for a failed call.
pub(super) const HINT: &str = "vals says why above; its backends take their credentials from the environment";

/// A source of kind `vals`.
pub(crate) struct Vals<'m> {
    tool: Tool<'m>,
}

impl<'m> Vals<'m> {
    pub(super) fn new(tool: Tool<'m>) -> Self {
        Self { tool }
    }
}

/// The expression of a reference, including a part after `#`.
fn expression(reference: &Reference) -> String {
    match &reference.field {
        Some(field) => format!("{}#{field}", reference.item),
        None => reference.item.clone(),
    }
}

impl Kind for Vals<'_> {
    type Spec = ProgramSpec;

    fn open<'m>(spec: &'m ProgramSpec, _: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(Vals::new(Tool::new("vals", HINT, spec, context)))
    }
}

impl Source for Vals<'_> {
    fn fetch(&mut self, wanted: &[&Reference]) -> Result<Vec<Result<Secret, LookupError>>, OpenError> {
        let name = |index: usize| format!("v{index}");
        let document: Map<String, Value> = wanted
            .iter()
            .enumerate()
            .filter(|(_, reference)| is_expression(reference))
            .map(|(index, reference)| (name(index), Value::String(expression(reference))))
            .collect();
        let mut values = Map::new();
        if !document.is_empty() {
            // JSON is a subset of YAML.
            let input = Value::Object(document).to_string();
            let arguments = ["eval", "-f", "-", "-o", "json"];
            let output = self.tool.run(&arguments, input.as_bytes()).map_err(|error| self.tool.failed(error))?;
            values = serde_json::from_slice(&output)
                .map_err(|_| self.tool.unexpected("what it printed is not one JSON object"))?;
        }
        let answer = |(index, reference): (usize, &&Reference)| match values.remove(&name(index)) {
            _ if !is_expression(reference) => Err(LookupError::Refused {
                item: item(reference),
                what: "this is no expression of vals".to_owned(),
                hint: Some(
                    "an expression begins with `ref+` or `secretref+`, as in `ref+vault://path#/key`".to_owned(),
                ),
            }),
            // vals returns an expression that it does not understand unchanged.
            Some(Value::String(text)) if text == expression(reference) => Err(LookupError::Refused {
                item: item(reference),
                what: "vals gave it back as it was".to_owned(),
                hint: Some("is the expression right?".to_owned()),
            }),
            Some(Value::String(text)) => replaced::check(reference, Secret::from(text), REPLACED),
            Some(number @ (Value::Number(_) | Value::Bool(_))) => Ok(Secret::from(number.to_string())),
            Some(_) => {
                let (item, field) = (shown(&reference.item), "value".to_owned());
                Err(LookupError::NotText { item, field })
            }
            None => Err(LookupError::NoItem { item: item(reference), near: Vec::new(), bad_lines: Vec::new() }),
        };
        Ok(wanted.iter().enumerate().map(answer).collect())
    }

    fn list(&mut self) -> Result<Vec<Listed>, OpenError> {
        Err(self.tool.unexpected("vals has no list of what there is: its items are expressions"))
    }
}

fn is_expression(reference: &Reference) -> bool {
    reference.item.starts_with("ref+") || reference.item.starts_with("secretref+")
}
