//! Templates: parsing, faults and rendering.

use std::collections::HashMap;

use deaddrop_core::secret::Secret;

use super::{MAX_BYTES, RenderError, Template, TemplateErrors, outside_of_tags};

/// `line:column message` of each fault.
fn faults(source: &str) -> Vec<String> {
    let Err(TemplateErrors { faults, .. }) = Template::parse(source) else { return Vec::new() };
    let place = |start: usize| {
        let before = &source[..start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        format!("{}:{}", before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    };
    faults.iter().map(|fault| format!("{} {}", place(fault.part.start), fault.message)).collect()
}

fn render(source: &str, values: &[(&str, &[u8])]) -> Result<String, RenderError> {
    let secrets: Vec<(&str, Secret)> =
        values.iter().map(|(text, value)| (*text, Secret::new(value.to_vec()))).collect();
    let values: HashMap<&str, &Secret> = secrets.iter().map(|(text, secret)| (*text, secret)).collect();
    let template = Template::parse(source).unwrap_or_else(|faults| panic!("{source:?}: {faults:?}"));
    let made = template.render(Some("node1"), &values)?;
    Ok(String::from_utf8(made.expose().to_vec()).unwrap())
}

#[test]
fn values_the_host_and_the_last_newline_are_where_they_belong() {
    let values: &[(&str, &[u8])] = &[("v:a", b"x y"), ("v:b", b"\xff"), ("v:{host}", b"h")];
    for (source, want) in [
        ("PSK={{ secret('v:a') }}\n", "PSK=x y\n"),
        ("PSK={{ secret(\"v:a\") }}", "PSK=x y"),
        ("\n\n{{ host }}\n\n", "\n\nnode1\n\n"),
        ("{{ secret('v:{host}') }}", "h"),
        ("{{ secret('v:b') | b64encode }}", "/w=="),
        ("{{ ('u:' ~ secret('v:a')) | b64encode }}", "dTp4IHk="),
        ("{{ secret('v:a') | b64encode | json }}", "\"eCB5\""),
        ("{% set a = secret('v:a') %}{{ a }}{{ a }}", "x yx y"),
        ("{% filter b64encode %}u:{{ secret('v:a') }}{% endfilter %}", "dTp4IHk="),
        ("{% for n in ['a', 'b'] %}{{ loop.index }}{{ n }}{% if not loop.last %},{% endif %}{% endfor %}", "1a,2b"),
        ("{% if host == 'node1' %}one{% elif host in ['x'] %}two{% else %}three{% endif %}", "one"),
        ("{{ 'yes' if host != 'node1' else 'no' }}", "no"),
        ("{# {{ nothing }} #}{% raw %}{{ x }}{% endraw %}{{ '{{' }}", "{{ x }}{{"),
        ("{{ 'a\\nb' | indent(2) }}|{{ ' x ' | trim }}", "a\n  b|x"),
        // A `set` in a loop ends with its iteration.
        ("{% set x = 'a' %}{% for n in [1, 2, 3] %}{% set x = x ~ x %}{{ x }} {% endfor %}{{ x }}", "aa aa aa a"),
    ] {
        assert_eq!(render(source, values).unwrap(), want, "{source}");
    }
}

#[test]
fn what_is_not_meant_here_is_refused_at_its_place() {
    for (source, want) in [
        ("a\n  {{ nome }}", "2:6 undefined name `nome`"),
        ("{{ secret }}", "1:4 `secret` is called with a reference"),
        ("{{ secret() }}", "1:4 `secret` takes one reference"),
        ("{{ secret('a:b', 'c') }}", "1:4 `secret` takes one reference"),
        (
            "é{{ secret('v:k3s-' ~ host) }}",
            "1:12 the reference of `secret` is not written out, so it is not known before the template runs",
        ),
        ("{{ env('X') }}", "1:4 unknown function `env`"),
        ("{% for i in range(1000000000) %}x{% endfor %}", "1:13 a loop goes over a list that is written out"),
        ("{{ host | b64encod }}", "1:11 unknown filter `b64encod`"),
        ("{{ host | json(1) }}", "1:11 the filter `json` takes nothing in parentheses"),
        (
            "{{ host | indent }}",
            "1:11 `indent` takes a number of spaces from 0 to 100, and whether the first line is meant, too",
        ),
        (
            "{{ host | indent(101) }}",
            "1:11 `indent` takes a number of spaces from 0 to 100, and whether the first line is meant, too",
        ),
        ("{{ 'x' * 1000000000 }}", "1:4 an operator other than `~` cannot be used in a template here"),
        ("{{ host.upper() }}", "1:8 a method cannot be used in a template here"),
        ("{{ loop.index }}", "1:4 `loop` is there inside of a `for` only"),
        ("{{ host[0] }}", "1:4 `[…]` after a value cannot be used in a template here"),
        ("{{ host is defined }}", "1:12 a test (`is …`) cannot be used in a template here"),
        ("{% if secret('v:a') == 'x' %}{% endif %}", "1:7 a condition cannot depend on a value"),
        ("{% set a = secret('v:a') %}{% if a %}{% endif %}", "1:34 a condition cannot depend on a value"),
        ("{% set host = 'x' %}", "1:8 `host` cannot be given another meaning"),
        ("{{ true }}", "1:4 only text and whole numbers can be written"),
        ("{{ host if host == 'a' }}", "1:4 this `if` has no `else`"),
    ] {
        assert_eq!(faults(source), [want], "{source}");
    }
    // Several faults, in order.
    assert_eq!(
        faults("{{ a }}\n{{ b | c }}"),
        ["1:4 undefined name `a`", "2:4 undefined name `b`", "2:8 unknown filter `c`"]
    );
}

#[test]
fn what_cannot_be_read_is_told_with_its_place() {
    for (source, place) in [
        ("a\n{{ host", "2:"),
        ("{{ host }\n", "1:"),
        ("{{ }}", "1:"),
        ("\n\n{% if host %}", "3:"),
        ("{% include 'x' %}", "1:"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "1:"),
        ("{% endfor %}", "1:"),
        ("{{ 'x }}", "1:"),
    ] {
        let faults = faults(source);
        assert_eq!(faults.len(), 1, "{source:?}: {faults:?}");
        assert!(
            faults[0].starts_with(place) && faults[0].contains("the template cannot be read: "),
            "{source:?}: {faults:?}"
        );
    }
}

#[test]
fn nothing_sends_the_parser_or_the_engine_too_deep() {
    let many = |text: &str| text.repeat(20_000);
    for source in [
        format!("{{{{ {}host }}}}", many("(")),
        format!("{{{{ {}1 }}}}", many("not ")),
        format!("{{{{ {}1 }}}}", many("- ")),
        format!("{{{{ host{} }}}}", many(" ~ host")),
        format!("{{{{ host{} }}}}", many("|trim")),
        format!("{{{{ host{} }}}}", many(".a")),
        format!("{{% if host %}}{}{{% endif %}}", many("{% elif x %}")),
        many("{% if host %}"),
        many("{% for a in ['a'] %}"),
        many("{{ host"),
        many("{#"),
    ] {
        assert!(Template::parse(&source).is_err(), "{}", &source[..20]);
    }
    for (length, fits) in [(MAX_BYTES - 1, true), (MAX_BYTES, true), (MAX_BYTES + 1, false)] {
        let source = "x".repeat(usize::try_from(length).unwrap());
        assert_eq!(Template::parse(&source).is_ok(), fits, "{length}");
    }
}

#[test]
fn a_template_that_takes_too_much_is_stopped() {
    let items = vec!["1"; 200].join(",");
    let nested = format!("{}x{}", format!("{{% for i in [{items}] %}}").repeat(8), "{% endfor %}".repeat(8));
    let doubling = format!("{{% set x = 'xxxxxxxx' %}}{}{{{{ x }}}}", "{% set x = x ~ x %}".repeat(60));
    for (name, source) in [("loops", nested), ("doubling", doubling)] {
        let failure = render(&source, &[]).unwrap_err();
        assert!(failure.reason.contains("too many steps"), "{name}: {failure:?}");
        assert_eq!(failure.line, Some(1), "{name}");
    }
    let large = vec![b'x'; 9 << 20];
    let failure = render("a\n{{ secret('v:a') }}{{ secret('v:a') }}", &[("v:a", &large)]).unwrap_err();
    assert!(failure.reason.contains("over 16 MiB"), "{failure:?}");
    // The longest value fits, and as base64 three quarters of it.
    let large = vec![b'x'; 12 << 20];
    assert_eq!(render("{{ secret('v:a') | b64encode }}", &[("v:a", &large)]).unwrap().len(), 16 << 20);
}

#[test]
fn a_value_that_does_not_fit_is_refused_by_name_and_not_shown() {
    let value: &[u8] = b"hunter2-\xff-hunter2";
    for source in ["\n{{ secret('v:a') }}", "\n{{ 'x' ~ secret('v:a') }}", "\n{{ secret('v:a') | trim | b64encode }}"] {
        let failure = render(source, &[("v:a", value)]).unwrap_err();
        assert_eq!(failure.reason, "the value of v:a is not UTF-8, so it cannot stand in a text", "{source}");
        assert_eq!(failure.line, Some(2));
        assert!(failure.hint.contains("{{ secret('v:a') | b64encode }}"), "{failure:?}");
    }
    let failure = render("a\nb {{ secret('v:a') | shell_quote }}", &[("v:a", b"hunter2\0")]).unwrap_err();
    assert_eq!(
        (failure.line, failure.reason.contains("`shell_quote`: the value holds a NUL")),
        (Some(2), true),
        "{failure:?}"
    );
    assert!(!format!("{failure:?}").contains("hunter2"));
    let template = Template::parse("{{ secret('v:a') }}").unwrap();
    assert!(template.render(None, &HashMap::new()).is_err());
}

#[test]
fn of_a_line_only_its_tags_are_shown() {
    let hidden = |source: &str, at: usize| {
        let parts = outside_of_tags(source, &(at..at));
        parts.into_iter().map(|part| source[part].to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(hidden("a {{ x }} b {% y %} c\nd", 3), ["a ", " b ", " c"]);
    assert_eq!(hidden("{{ x\ny }} secret", 6), [" secret"]);
    assert_eq!(hidden("hunter2 {{ x\nhunter2", 9), ["hunter2 "]);
    assert_eq!(hidden("hunter2", 0), ["hunter2"]);
}

#[test]
fn any_words_in_any_order_are_a_template_or_a_fault_and_never_fail() {
    let words = [
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
        "#}",
        "-",
        "if",
        "elif",
        "else",
        "endif",
        "for",
        "in",
        "endfor",
        "set",
        "endset",
        "filter",
        "endfilter",
        "raw",
        "endraw",
        "secret",
        "(",
        ")",
        "'v:a'",
        "host",
        "x",
        "=",
        "==",
        "~",
        "|",
        "json",
        "indent",
        "b64encode",
        "[",
        "]",
        ",",
        ".",
        "loop",
        "index",
        "not",
        "and",
        "is",
        "1",
        "\"",
        "'",
        "\n",
        "é",
        " ",
        "{",
        "}",
        "recursive",
        "*",
        "with",
    ];
    // xorshift64* (Marsaglia and Vigna) with a fixed seed.
    let mut state: u64 = 0x5eed_0fde_add0_0d02;
    let mut next = |limit: usize| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        usize::try_from(state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % limit
    };
    let mut good = 0;
    for _ in 0..20_000 {
        let mut source = String::new();
        for _ in 0..1 + next(14) {
            let word = words[next(words.len())];
            source += &if next(3) == 0 { format!("{{{{ {word} }}}}") } else { format!("{word} ") };
        }
        match Template::parse(&source) {
            Ok(template) => {
                good += 1;
                let value = Secret::new(b"hunter2-\xff".to_vec());
                let values = template.mentions().iter().map(|mention| (mention.text.as_str(), &value)).collect();
                if let Err(failure) = template.render(Some("node1"), &values) {
                    assert!(!failure.reason.contains("fails on it"), "{source:?}");
                    assert!(!format!("{failure:?}").contains("hunter2"), "{source:?}");
                }
            }
            Err(broken) => {
                for fault in &broken.faults {
                    assert!(!fault.message.contains("fails on it"), "{source:?}");
                    assert!(
                        source.get(fault.part.clone()).is_some() || fault.part.end > source.len(),
                        "{source:?}: {fault:?}"
                    );
                    let _ = outside_of_tags(&source, &fault.part);
                }
            }
        }
    }
    assert!(good > 500, "{good}");
}

#[test]
fn what_values_put_into_a_text_is_known_also_where_a_filter_quotes_it() {
    let parts = |source: &str| {
        let value = Secret::new(b"a\"b'c".to_vec());
        let values = HashMap::from([("v:a", &value)]);
        let parts = Template::parse(source).unwrap().parts(&values);
        parts.iter().map(|part| String::from_utf8(part.expose().to_vec()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(parts("x={{ secret('v:a') }} {{ host }}"), ["a\"b'c"]);
    assert_eq!(parts("x={{ secret('v:a') | json }}"), ["a\"b'c", "\"a\\\"b'c\""]);
    assert_eq!(parts("x={{ secret('v:a') | shell_quote }}"), ["a\"b'c", "'a\"b'\\''c'"]);
    assert_eq!(parts("x={{ host }}"), [""; 0]);
}
