//! Checks that a template uses only the supported part of the language, and collects its mentions. Walks the engine's
//! own syntax tree, so that the checked template is the one that runs.
//!
//! Not supported is whatever files of secrets do not need, or whatever could be expensive or depend on a value: macros,
//! includes, arithmetic, methods, tests, lists except for `for` and `in`. A condition may use the host's name and the
//! template's own literals, but no value, so that the set of lines does not depend on a secret.

use std::collections::BTreeSet;
use std::ops::Range;

use deaddrop_core::near;
use minijinja::ErrorKind;
use minijinja::machinery::ast::{BinOpKind, Call, CallArg, CompareOpKind, Expr, Filter, ForLoop, Stmt};
use minijinja::machinery::{Span, Token, parse, tokenize};

use super::{FILTERS, Fault, Mention, TemplateErrors, floor, syntax};

/// Maximum number of tokens in one tag: the engine's parser recurses into expressions.
const MAX_TOKENS: usize = 500;
/// Maximum number of `elif` in a template, for the same reason.
const MAX_ELIF: usize = 100;
/// Maximum number of names that a template may `set`, and of values that it may have.
const MAX_NAMES: usize = 1000;
/// Maximum number of faults that are reported.
const MAX_FAULTS: usize = 100;
/// Maximum width of `indent`.
const MAX_INDENT: usize = 100;
/// Attributes of `loop` inside a `for`.
const LOOP: [&str; 7] = ["index", "index0", "revindex", "revindex0", "first", "last", "length"];

/// The result for a template without faults.
pub(super) struct Checked {
    pub mentions: Vec<Mention>,
    pub names_host: bool,
}

/// Checks a template.
pub(super) fn check(source: &str) -> Result<Checked, TemplateErrors> {
    bounded(source)?;
    let tree = parse(source, "template", syntax()).map_err(|error| syntax_fault(source, &error))?;
    let mut walker = Walker {
        source,
        faults: Vec::new(),
        mentions: Vec::new(),
        names_host: false,
        defined: BTreeSet::new(),
        secret: BTreeSet::new(),
        loops: 0,
    };
    walker.statement(&tree);
    if walker.faults.is_empty() {
        return Ok(Checked { mentions: walker.mentions, names_host: walker.names_host });
    }
    walker.faults.sort_by_key(|fault| fault.part.start);
    Err(TemplateErrors { faults: walker.faults, mentions: walker.mentions })
}

/// Refuses templates that would recurse too deeply in the parser.
fn bounded(source: &str) -> Result<(), Fault> {
    let (mut tokens, mut elifs): (usize, usize) = (0, 0);
    // The parser reports tokens that cannot be read here.
    for (token, span) in tokenize(source, false, syntax()).map_while(Result::ok) {
        match token {
            Token::VariableStart | Token::BlockStart => tokens = 0,
            Token::Ident("elif") => elifs = elifs.saturating_add(1),
            _ => {}
        }
        tokens = tokens.saturating_add(1);
        let message = match (tokens > MAX_TOKENS, elifs > MAX_ELIF) {
            (true, _) => format!("over {MAX_TOKENS} words and signs in one tag, the limit of a template"),
            (_, true) => format!("over {MAX_ELIF} times `elif`, the limit of a template"),
            _ => continue,
        };
        return Err(Fault { part: range(span), message, hint: "share it out over several tags".to_owned() });
    }
    Ok(())
}

/// The engine's message for a syntax error. It contains no value, because there is none yet.
fn syntax_fault(source: &str, error: &minijinja::Error) -> Fault {
    let range = error.range().unwrap_or_else(|| {
        // Only the line is known.
        let line = error.line().unwrap_or(1).saturating_sub(1);
        let start = source.split_inclusive('\n').take(line).map(str::len).sum();
        start..start
    });
    // The engine's range may be inside a character.
    let part = floor(source, range.start)
        ..(range.end..).find(|end| source.is_char_boundary(*end) || *end > source.len()).unwrap_or(range.end);
    let detail = error.detail().unwrap_or_default();
    let hint = match error.kind() {
        _ if detail.starts_with("unknown statement") => "there are: for, if, set and filter",
        ErrorKind::SyntaxError if detail.contains("end of input") => "is a `}}`, `%}`, `#}`, endfor or endif missing?",
        _ => "`{{ … }}` writes something, `{% … %}` is a statement; write `{{ '{{' }}` for a `{{` that is meant",
    };
    Fault { part, message: format!("the template cannot be read: {detail}"), hint: hint.to_owned() }
}

fn range(span: Span) -> Range<usize> {
    let wide = |offset: u32| usize::try_from(offset).unwrap_or(usize::MAX);
    wide(span.start_offset)..wide(span.end_offset)
}

struct Walker<'s> {
    source: &'s str,
    faults: Vec<Fault>,
    mentions: Vec<Mention>,
    names_host: bool,
    /// Names that are `set`, or are loop variables.
    defined: BTreeSet<&'s str>,
    /// The ones among them that may contain a value.
    secret: BTreeSet<&'s str>,
    /// Number of open loops.
    loops: usize,
}

impl<'s> Walker<'s> {
    fn fault(&mut self, span: Span, message: impl Into<String>, hint: &str) {
        if self.faults.len() >= MAX_FAULTS {
            return;
        }
        self.faults.push(Fault { part: range(span), message: message.into(), hint: hint.to_owned() });
    }

    fn unsupported(&mut self, span: Span, what: &str) {
        self.fault(
            span,
            format!("{what} cannot be used in a template here"),
            "docs/templates.md says what can be used",
        );
    }

    fn all(&mut self, statements: &[Stmt<'s>]) {
        statements.iter().for_each(|statement| self.statement(statement));
    }

    fn statement(&mut self, statement: &Stmt<'s>) {
        match statement {
            Stmt::Template(template) => self.all(&template.children),
            Stmt::EmitRaw(_) => {}
            Stmt::EmitExpr(emit) => {
                self.value(&emit.expr);
            }
            Stmt::IfCond(branch) => {
                self.condition(&branch.expr);
                self.all(&branch.true_body);
                self.all(&branch.false_body);
            }
            Stmt::ForLoop(of) => self.for_loop(of, of.span()),
            Stmt::Set(set) => {
                let is_secret = self.value(&set.expr);
                self.define(&set.target, is_secret);
            }
            Stmt::SetBlock(set) => {
                self.all(&set.body);
                if let Some(filter) = &set.filter {
                    self.value(filter);
                }
                self.define(&set.target, true);
            }
            Stmt::FilterBlock(block) => {
                self.value(&block.filter);
                self.all(&block.body);
            }
            Stmt::WithBlock(block) => self.unsupported(block.span(), "`with`"),
            Stmt::AutoEscape(block) => self.unsupported(block.span(), "`autoescape`"),
            Stmt::Do(statement) => self.unsupported(statement.span(), "`do`"),
        }
    }

    fn for_loop(&mut self, of: &ForLoop<'s>, span: Span) {
        if of.recursive {
            self.unsupported(span, "`recursive`");
        }
        let items = match &of.iter {
            Expr::List(list) => &list.items,
            Expr::Tuple(tuple) => &tuple.items,
            other => {
                let hint = "write the items out: {% for name in ['a', 'b'] %}";
                return self.fault(other.span(), "a loop goes over a list that is written out", hint);
            }
        };
        let mut is_secret = false;
        for item in items {
            is_secret |= self.value(item);
        }
        self.define(&of.target, is_secret);
        self.loops = self.loops.saturating_add(1);
        if let Some(condition) = &of.filter_expr {
            self.condition(condition);
        }
        self.all(&of.body);
        self.loops = self.loops.saturating_sub(1);
        self.all(&of.else_body);
    }

    fn define(&mut self, target: &Expr<'s>, is_secret: bool) {
        let Expr::Var(name) = target else {
            return self.unsupported(target.span(), "a target that is no name");
        };
        if matches!(name.id, "secret" | "host") {
            let message = format!("`{}` cannot be given another meaning", name.id);
            return self.fault(name.span(), message, "choose another name");
        }
        self.defined.insert(name.id);
        if self.defined.len() > MAX_NAMES {
            return self.fault(name.span(), format!("over {MAX_NAMES} names, the limit of a template"), "");
        }
        if is_secret {
            self.secret.insert(name.id);
        }
    }

    /// Checks an expression whose text or number is written. True if it may contain a value.
    fn value(&mut self, expr: &Expr<'s>) -> bool {
        match expr {
            Expr::Const(constant) => {
                if constant.value.as_str().is_none() && !constant.value.is_integer() {
                    self.fault(constant.span(), "only text and whole numbers can be written", "");
                }
                false
            }
            Expr::Var(name) => self.name(name.id, name.span()),
            Expr::GetAttr(attribute) => {
                let of_loop = matches!(&attribute.expr, Expr::Var(name) if name.id == "loop");
                if !of_loop || !LOOP.contains(&attribute.name) {
                    self.unsupported(attribute.span(), "an attribute");
                } else if self.loops == 0 {
                    self.fault(attribute.span(), "`loop` is there inside of a `for` only", "");
                }
                false
            }
            Expr::Call(call) => self.call(call, call.span(), ""),
            Expr::Filter(filter) => self.filter(filter, filter.span()),
            Expr::BinOp(operation) => {
                if !matches!(operation.op, BinOpKind::Concat) {
                    self.unsupported(operation.span(), "an operator other than `~`");
                    return false;
                }
                let left = self.value(&operation.left);
                self.value(&operation.right) || left
            }
            Expr::IfExpr(choice) => {
                self.condition(&choice.test_expr);
                let first = self.value(&choice.true_expr);
                match &choice.false_expr {
                    Some(second) => self.value(second) || first,
                    None => {
                        let hint = "write `… if … else ''`";
                        self.fault(choice.true_expr.span(), "this `if` has no `else`", hint);
                        first
                    }
                }
            }
            Expr::UnaryOp(_) | Expr::Compare(_) => {
                self.fault(expr.span(), "a condition is no text", "use it in `{% if … %}` or `… if … else …`");
                false
            }
            Expr::List(_) | Expr::Tuple(_) | Expr::Map(_) => {
                self.unsupported(expr.span(), "a list or mapping, other than in `for` and after `in`,");
                false
            }
            Expr::Slice(_) | Expr::GetItem(_) => {
                self.unsupported(expr.span(), "`[…]` after a value");
                false
            }
            Expr::Test(_) => {
                self.unsupported(expr.span(), "a test (`is …`)");
                false
            }
        }
    }

    /// Checks a variable. True if it may contain a value.
    fn name(&mut self, id: &'s str, span: Span) -> bool {
        match id {
            "host" => {
                self.names_host = true;
                false
            }
            "secret" => {
                self.fault(span, "`secret` is called with a reference", "write secret('SOURCE:ITEM')");
                false
            }
            _ if self.defined.contains(id) => self.secret.contains(id),
            _ if self.faults.len() >= MAX_FAULTS => false,
            _ => {
                let known = || self.defined.iter().copied().chain(["host", "secret"]);
                let there_are = format!("names here: {}", near::list(known()));
                let near = near::near(id, known());
                let hint =
                    near::did_you_mean(&near).map_or(there_are.clone(), |question| format!("{question} {there_are}"));
                self.fault(span, format!("undefined name {}", quoted_name(id)), &hint);
                false
            }
        }
    }

    /// Checks `secret('…')`, to which `filter` is applied first; empty for none. Always true, because it is a value.
    fn call(&mut self, call: &Call<'s>, span: Span, filter: &str) -> bool {
        const LITERAL: &str = "write secret('SOURCE:ITEM'); `{host}` in it stands for the host's name";
        match &call.expr {
            Expr::Var(name) if name.id == "secret" => {}
            Expr::Var(name) => {
                let hint = "there is one function, `secret`";
                self.fault(name.span(), format!("unknown function {}", quoted_name(name.id)), hint);
                return false;
            }
            _ => {
                self.unsupported(span, "a method");
                return false;
            }
        }
        let [CallArg::Pos(argument)] = call.args.as_slice() else {
            self.fault(span, "`secret` takes one reference", LITERAL);
            return true;
        };
        let text = match argument {
            Expr::Const(constant) => constant.value.as_str(),
            _ => None,
        };
        let Some(text) = text else {
            let message = "the reference of `secret` is not written out, so it is not known before the template runs";
            self.fault(argument.span(), message, LITERAL);
            return true;
        };
        let quoted = range(argument.span());
        let inside = quoted.start.saturating_add(1)..quoted.end.saturating_sub(1).max(quoted.start.saturating_add(1));
        let (takes_bytes, is_trimmed) = (filter == "b64encode", filter == "trim");
        let count = self.mentions.len();
        match self.mentions.iter_mut().find(|mention| mention.text == text) {
            Some(mention) => {
                mention.takes_bytes &= takes_bytes;
                mention.is_trimmed &= is_trimmed;
            }
            None if count >= MAX_NAMES => {
                self.fault(span, format!("over {MAX_NAMES} values, the limit of a template"), "");
            }
            None => self.mentions.push(Mention { text: text.to_owned(), inside, takes_bytes, is_trimmed }),
        }
        true
    }

    fn filter(&mut self, filter: &Filter<'s>, span: Span) -> bool {
        if !FILTERS.contains(&filter.name) {
            let there_are = format!("filters here: {}", near::list(FILTERS.into_iter()));
            let near = near::near(filter.name, FILTERS.into_iter());
            let hint =
                near::did_you_mean(&near).map_or(there_are.clone(), |question| format!("{question} {there_are}"));
            self.fault(
                self.name_of_filter(filter.name, span),
                format!("unknown filter {}", quoted_name(filter.name)),
                &hint,
            );
        } else {
            self.arguments(filter, span);
        }
        match &filter.expr {
            Some(Expr::Call(call)) => self.call(call, call.span(), filter.name),
            Some(expr) => self.value(expr),
            // The filter of a block.
            None => true,
        }
    }

    /// The position of a filter's name; the engine's span may start with the filter's operand.
    fn name_of_filter(&self, name: &str, span: Span) -> Span {
        let part = range(span);
        let found = self.source.get(part.clone()).and_then(|text| text.rfind(name));
        match found.and_then(|offset| u32::try_from(part.start.saturating_add(offset)).ok()) {
            Some(start_offset) => {
                let end = u32::try_from(name.len()).ok().and_then(|length| start_offset.checked_add(length));
                Span { start_offset, end_offset: end.unwrap_or(span.end_offset), ..span }
            }
            None => span,
        }
    }

    fn arguments(&mut self, filter: &Filter<'s>, span: Span) {
        if filter.name != "indent" {
            if !filter.args.is_empty() {
                self.fault(span, format!("the filter `{}` takes nothing in parentheses", filter.name), "");
            }
            return;
        }
        let width = |argument: &CallArg<'s>| match argument {
            CallArg::Pos(Expr::Const(width)) => width.value.as_usize().is_some_and(|width| width <= MAX_INDENT),
            _ => false,
        };
        let good = match filter.args.as_slice() {
            [first] => width(first),
            [first, CallArg::Pos(Expr::Const(flag))] => {
                width(first) && matches!(flag.value.to_string().as_str(), "true" | "false" | "True" | "False")
            }
            _ => false,
        };
        if !good {
            let message = format!(
                "`indent` takes a number of spaces from 0 to {MAX_INDENT}, and whether the first line is meant, too"
            );
            self.fault(span, message, "write indent(4) or indent(4, true)");
        }
    }

    /// Checks a condition: it must not contain a value.
    fn condition(&mut self, expr: &Expr<'s>) {
        match expr {
            Expr::Const(_) => {}
            Expr::UnaryOp(not) => self.condition(&not.expr),
            Expr::BinOp(operation) => match operation.op {
                BinOpKind::ScAnd | BinOpKind::ScOr | BinOpKind::Eq | BinOpKind::Ne => {
                    self.condition(&operation.left);
                    self.condition(&operation.right);
                }
                BinOpKind::In => self.membership(&operation.left, &operation.right),
                _ => self.unsupported(operation.span(), "arithmetic"),
            },
            Expr::Compare(comparison) => {
                let mut left = &comparison.expr;
                for step in &comparison.ops {
                    match step.op {
                        CompareOpKind::In | CompareOpKind::NotIn => self.membership(left, &step.expr),
                        _ => {
                            self.condition(left);
                            self.condition(&step.expr);
                        }
                    }
                    left = &step.expr;
                }
            }
            _ => {
                if self.value(expr) {
                    let hint = "conditions look at `host`, and at what the template itself says";
                    self.fault(expr.span(), "a condition cannot depend on a value", hint);
                }
            }
        }
    }

    fn membership(&mut self, left: &Expr<'s>, right: &Expr<'s>) {
        self.condition(left);
        match right {
            Expr::List(list) => list.items.iter().for_each(|item| self.condition(item)),
            Expr::Tuple(tuple) => tuple.items.iter().for_each(|item| self.condition(item)),
            other => {
                self.fault(other.span(), "after `in` stands a list that is written out", "write: host in ['a', 'b']")
            }
        }
    }
}

/// A name of the template, in backquotes, truncated.
fn quoted_name(name: &str) -> String {
    let cut: String = name.chars().take(60).collect();
    format!("`{cut}{}`", if cut.len() < name.len() { "…" } else { "" })
}
