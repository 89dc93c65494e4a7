//! Documents in every format, and invalid ones.

use super::*;

fn get(text: &str, format: DataFormat, item: &str, field: Option<&str>) -> Result<String, String> {
    let document = Document::parse(text.as_bytes(), format).map_err(|error| error.to_string())?;
    let reference = Reference { source: "s".into(), item: item.into(), field: field.map(str::to_owned) };
    let answer = document.fetch(&[&reference]).remove(0);
    answer.map(|value| String::from_utf8(value.expose().to_vec()).unwrap()).map_err(|error| error.to_string())
}

const JSON: &str = r#"{
  "text": "a\u00e4\ud83d\ude00\n\"$x", "empty": "", "number": 1.50, "big": 123456789012345678901234567890, "exp": -1E+2,
  "yes": true, "no": false, "null": null, "list": ["zero", {"x": "one"}, [2]],
  "object": {"a": "A", "b/c": "B", "n": null},
  "": "nameless", "t~e": "tilde", "twice": 1, "twice": 2, "nothing": {}
}"#;

#[test]
fn json_values_are_their_text_as_written() {
    for (item, field, want) in [
        ("text", None, "aä😀\n\"$x"),
        ("empty", None, ""),
        ("number", None, "1.50"),
        ("big", None, "123456789012345678901234567890"),
        ("exp", None, "-1E+2"),
        ("yes", None, "true"),
        ("no", None, "false"),
        ("object", Some("a"), "A"),
        ("object", Some("b/c"), "B"),
        ("/object/b~1c", None, "B"),
        ("/t~0e", None, "tilde"),
        ("/list/0", None, "zero"),
        ("/list/1/x", None, "one"),
        ("/list/1", Some("x"), "one"),
        ("/list/2/0", None, "2"),
        ("/", None, "nameless"),
        ("/text", None, "aä😀\n\"$x"),
    ] {
        assert_eq!(get(JSON, DataFormat::Json, item, field).as_deref(), Ok(want), "{item} {field:?}");
    }
}

#[test]
fn what_has_no_value_is_told_by_its_kind() {
    for (item, field, want) in [
        ("null", None, "\"null\": this is null, and no value"),
        ("object", Some("n"), "\"object#n\": this is null, and no value"),
        ("list", None, "\"list\": this is a list, and no value"),
        ("object", None, "\"object\": this is an object, and no value; it has: a, b/c, n"),
        ("nothing", None, "\"nothing\": this is an empty object, and no value"),
        ("object", Some("z"), "item \"object\" has no field \"z\"; it has: a, b/c, n"),
        ("text", Some("z"), "\"text#z\": the item is one value, and only an object has fields"),
        ("list", Some("0"), "\"list#0\": the item is a list, and only an object has fields"),
        ("twice", None, "\"twice\": the key \"twice\" comes twice"),
        ("/list/3", None, "no item \"/list/3\""),
        ("/list/00", None, "no item \"/list/00\""),
        ("/list/+1", None, "no item \"/list/+1\""),
        ("/list/-", None, "no item \"/list/-\""),
        ("/text/x", None, "no item \"/text/x\""),
        ("nowhere", None, "no item \"nowhere\""),
    ] {
        assert_eq!(get(JSON, DataFormat::Json, item, field).unwrap_err(), want, "{item} {field:?}");
    }
    assert_eq!(get("[1]", DataFormat::Json, "x", None).unwrap_err(), "\"x\": the top level has no keys");
    assert_eq!(get("[1]", DataFormat::Json, "/0", None).unwrap(), "1");
}

#[test]
fn what_is_no_document_is_told_with_its_place_and_without_its_text() {
    let deep = |open: &str, close: &str, depth| format!("{}1{}", open.repeat(depth), close.repeat(depth));
    for (text, format, want) in [
        ("", DataFormat::Json, "line 1, column 1: the document is empty"),
        ("{\"a\": \"b", DataFormat::Json, "line 1, column 8: the document ends in the middle"),
        ("{\"a\": 1}\n x", DataFormat::Json, "line 2, column 2: this is not JSON"),
        (
            "{\n \"a\": \"\\ud800\"}",
            DataFormat::Json,
            "line 2, column 7: half of a surrogate pair (`\\ud800` to `\\udfff`)",
        ),
        (&deep("[", "]", 33), DataFormat::Json, "line 1, column 34: nested over 32 deep, the limit of a document"),
        (
            &deep("{\"a\":", "}", 33),
            DataFormat::Json,
            "line 1, column 166: nested over 32 deep, the limit of a document",
        ),
        ("", DataFormat::Yaml, "the document is empty"),
        ("a: [b", DataFormat::Yaml, "line 1, column 4: this is not YAML"),
        ("a: 1\n---\nb: 2\n", DataFormat::Yaml, "line 2, column 1: a second document begins here"),
        ("a: &a [*a]\n", DataFormat::Yaml, "line 1, column 8: an alias inside what it stands for"),
        ("a: !include x\n", DataFormat::Yaml, "line 1, column 13: this YAML tag (`!…`) has no meaning here"),
        ("? [a]\n: b\n", DataFormat::Yaml, "line 1, column 5: a key here is a list, a mapping or null"),
        (&deep("[", "]", 33), DataFormat::Yaml, "line 1, column 33: this is not YAML"),
    ] {
        assert_eq!(get(text, format, "a", None).unwrap_err(), want, "{text:?}");
    }
    for format in [DataFormat::Json, DataFormat::Yaml, DataFormat::Dotenv] {
        let error = Document::parse(b"a: 1\nb: \xff\n", format).err().unwrap();
        assert_eq!(error.to_string(), "line 2: this is not UTF-8");
    }
    assert!(Document::parse(b"a: \xff\n", DataFormat::Value).is_ok());
}

#[test]
fn thirty_two_levels_and_a_million_values_are_read_and_one_more_is_not() {
    for format in [DataFormat::Json, DataFormat::Yaml] {
        let deep = format!("{}1{}", "[".repeat(32), "]".repeat(32));
        assert_eq!(get(&deep, format, &"/0".repeat(32), None).as_deref(), Ok("1"));
        for (count, fits) in [(MAX_NODES - 1, true), (MAX_NODES, false)] {
            // Once is enough for YAML, which is slower.
            if fits && format == DataFormat::Yaml {
                continue;
            }
            let text = format!("[{}1]", "1,".repeat(count - 1));
            let want = if fits { Ok("1".to_owned()) } else { Err(()) };
            let got = get(&text, format, "/0", None);
            assert!(got.as_ref().is_ok() || got.as_ref().is_err_and(|error| error.contains(TooMany::WHAT)), "{got:?}");
            assert_eq!(got.map_err(|_| ()), want, "{format:?} {count}");
        }
    }
}

#[test]
fn yaml_values_are_their_text_and_aliases_what_they_stand_for() {
    let text = "text: plain\nquoted: \"a\\n'b'\"\nsingle: 'null'\nblock: |\n  two\n  lines\nfolded: >-\n  one\n  line\n\
                octal: 0400\nyes: yes\ntrue: true\nnone:\ntilde: ~\nstring: !!str ~\nbase: &base {a: 1, b: x}\ncopy: \
                *base\n\
                &key k: v\n*key : w\n'1': one\nlist:\n- a\n- *base\n";
    for (item, field, want) in [
        ("text", None, Ok("plain")),
        ("quoted", None, Ok("a\n'b'")),
        ("single", None, Ok("null")),
        ("block", None, Ok("two\nlines\n")),
        ("folded", None, Ok("one line")),
        ("octal", None, Ok("0400")),
        ("yes", None, Ok("yes")),
        ("true", None, Ok("true")),
        ("none", None, Err("\"none\": this is null, and no value")),
        ("tilde", None, Err("\"tilde\": this is null, and no value")),
        ("string", None, Ok("~")),
        ("copy", Some("b"), Ok("x")),
        ("k", None, Err("\"k\": the key \"k\" comes twice")),
        ("1", None, Ok("one")),
        ("/list/1/a", None, Ok("1")),
    ] {
        let want = want.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(get(text, DataFormat::Yaml, item, field), want, "{item}");
    }
}

#[test]
fn an_alias_bomb_is_read_and_listed_within_bounds() {
    let mut text = "a0: &a0 [x, x]\n".to_owned();
    for level in 1..28 {
        text += &format!("a{level}: &a{level} [*a{}, *a{}]\n", level - 1, level - 1);
    }
    let document = Document::parse(text.as_bytes(), DataFormat::Yaml).unwrap();
    assert!(document.list().len() <= MAX_LISTED);
    assert_eq!(get(&text, DataFormat::Yaml, &format!("/a27{}", "/1".repeat(28)), None).as_deref(), Ok("x"));
}

#[test]
fn a_listing_names_items_that_can_be_asked_for() {
    let document = Document::parse(JSON.as_bytes(), DataFormat::Json).unwrap();
    let listed: Vec<String> =
        document.list().iter().map(|item| format!("{}#{}", item.name, item.fields.join(","))).collect();
    let want = [
        "text#",
        "empty#",
        "number#",
        "big#",
        "exp#",
        "yes#",
        "no#",
        "/list/0#",
        "/list/1#x",
        "/list/2/0#",
        "object#a,b/c",
        "#",
        "t~e#",
        "twice#",
        "twice#",
    ];
    assert_eq!(listed, want);
}
