//! CSV files of browsers and others in tests/exports, and malformed ones.

use crate::testing::{check, check_errors, check_values, error, exports, get, listing, nul, values};
use crate::{Column, CsvSpec, FileSpec, SourceSpec};

/// A table with the items' names in the column `item`, and these fields and columns.
fn table(name: &str, item: &str, fields: &[(&str, &str)]) -> SourceSpec {
    let column = |name: &str| Column::Name(name.to_owned());
    let fields = fields.iter().map(|(field, name)| ((*field).to_owned(), column(name))).collect();
    SourceSpec::Csv(CsvSpec { file: FileSpec::plain(name), item: column(item), fields })
}

/// The error of a table with the columns `name` and `password`.
fn error_text(bytes: &[u8]) -> String {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("x"), bytes).unwrap();
    let told = error(directory.path(), table("x", "name", &[("password", "password")]), "a");
    assert!(!told.contains("planted"), "{told}");
    told
}

/// The password of the item `a` in such a table.
fn password(text: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("x"), text).unwrap();
    get(directory.path(), table("x", "name", &[("password", "password")]), &["a"])
        .unwrap_or_else(|told| panic!("{told:?}"))
        .remove(0)
}

#[test]
fn the_exports_of_browsers_and_of_dashlane_are_read_byte_for_byte() {
    let chrome = &[("password", "password"), ("username", "username"), ("uri", "url"), ("notes", "note")];
    let safari =
        &[("password", "Password"), ("username", "Username"), ("uri", "URL"), ("notes", "Notes"), ("totp", "OTPAuth")];
    let dashlane = &[
        ("password", "password"),
        ("username", "username"),
        ("folder", "category"),
        ("totp", "otpUrl"),
        ("other name", "username2"),
    ];
    let values: Vec<_> = values().into_iter().chain([nul()]).collect();
    for spec in [
        table("chrome.csv", "name", chrome),
        table("safari.csv", "Title", safari),
        table("dashlane.csv", "title", dashlane),
    ] {
        check_values(&exports(), &spec, "", &values);
        check(&exports(), spec, &[("Router", "planted-router"), ("Router#username", "admin")]);
    }
    check(
        &exports(),
        table("chrome.csv", "name", chrome),
        &[("Router#notes", "planted note"), ("Router#uri", "https://planted.example/")],
    );
    check(&exports(), table("safari.csv", "Title", safari), &[("Router#totp", "otpauth://planted")]);
    check(
        &exports(),
        table("dashlane.csv", "title", dashlane),
        &[("Homelab/Router", "planted-router"), ("Router#other name", "second")],
    );

    let firefox = table("firefox.csv", "url", &[("password", "password"), ("username", "username")]);
    check(
        &exports(),
        firefox.clone(),
        &[("https://planted.example", "planted-router"), ("https://dollar.example", "$HOME ${X} $(id) $$ %d {{x}}")],
    );
    assert!(listing(&exports(), firefox).contains(&"|https://planted.example||password,username".to_owned()));
    let items = listing(&exports(), table("dashlane.csv", "title", dashlane));
    assert!(items.contains(&"Homelab|Router||password,totp,username,other name".to_owned()), "{items:?}");
}

#[test]
fn what_cannot_be_had_is_told() {
    check_errors(
        &exports(),
        table("chrome.csv", "name", &[("username", "username"), ("site", "url")]),
        &[
            ("Router", "item \"Router\" has no password; it has: username, site"),
            ("Router#note", "item \"Router\" has no field \"note\"; it has: username, site"),
            ("Rooter", "no item \"Rooter\" (for s)\ndid you mean `vault:Router`?"),
            ("folder/Router", "no item \"folder/Router\""),
        ],
    );
}

#[test]
fn fields_are_read_as_rfc_4180_says() {
    for (name, text, want) in [
        ("plain", "name,password\na,planted\n", "planted"),
        ("without a last line end", "name,password\na,planted", "planted"),
        ("CRLF", "name,password\r\na,planted\r\n", "planted"),
        ("quotes", "\"name\",\"password\"\n\"a\",\"pl\"\"an,ted\"\n", "pl\"an,ted"),
        ("line ends in it", "name,password\na,\"one\r\ntwo\nthree\"\n", "one\r\ntwo\nthree"),
        ("a mark", "\u{feff}name,password\na,planted\n", "planted"),
        ("a mark and quotes", "\u{feff}\"name\",password\na,planted\n", "planted"),
        ("white space", "name,password\na, planted \n", " planted "),
        ("a quote in the middle", "name,password\na,5\" pipe\n", "5\" pipe"),
        ("empty lines", "name,password\n\n\na,planted\n\n", "planted"),
        ("empty", "name,password\na,\n", ""),
        ("empty in quotes", "name,password\na,\"\"", ""),
        ("more columns", ",password,x,,name\n1,planted,2,3,a\n", "planted"),
        ("a line end at its end", "name,password\na,\"planted\n\"", "planted\n"),
        ("one column", "name,password,\na,planted,\n", "planted"),
    ] {
        assert_eq!(String::from_utf8(password(text)).unwrap(), want, "{name}");
    }
    let twice = error_text(b"name,password\na,planted\na,planted\n");
    assert!(twice.contains(
        "two items are called \"a\" (for s)\n   a\n   a\nrename one of them: this kind of source has no ids"
    ));
    // One column may serve several fields.
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("x"), "name\nplanted\n").unwrap();
    let spec = table("x", "name", &[("password", "name"), ("again", "name")]);
    assert_eq!(get(directory.path(), spec, &["planted", "planted#again"]).unwrap(), vec![b"planted"; 2]);
}

#[test]
fn a_broken_table_is_told_with_its_line_and_no_part_of_a_row() {
    for (name, bytes, want) in [
        ("empty", &b""[..], "the file is empty"),
        ("only line ends", b"\n\r\n\n", "the file is empty"),
        (
            "no header",
            b"planted-a,planted-b\nplanted,planted\n",
            "its first line, which must be the header, has no column \"name\", \"password\"",
        ),
        ("semicolons", b"name;password\nplanted;planted\n", "its first line, which must be the header, has no column"),
        (
            "a column is missing",
            b"name,Password,url\nplanted,planted,planted\n",
            "it has no column \"password\"; there are: name, Password, url",
        ),
        (
            "a name twice",
            b"name,password,x,password\na,planted,b,planted\n",
            "two of its columns are called \"password\"",
        ),
        ("another name twice", b"name,password,x,x\na,planted,b,planted\n", "two of its columns are called \"x\""),
        ("not UTF-8", b"name,password\na,b\n\"planted\nplanted\",\"x\n\xff\"\n", "line 5: this is not UTF-8"),
        ("a header that is not UTF-8", b"name,password,\xff\na,b,c\n", "line 1: this is not UTF-8"),
        ("UTF-16", b"\xff\xfen\0a\0", "this is UTF-16, and a CSV file is UTF-8"),
        ("an open quote", b"name,password\na,\"planted\nb,planted\n", "the file ends inside quotes"),
        ("an open quote at the end", b"name,password\na,\"", "the file ends inside quotes"),
        ("an open quote in the header", b"name,\"password\na,planted\n", "the file ends inside quotes"),
    ] {
        let told = error_text(bytes);
        assert!(told.contains(want), "{name}: {told}");
    }
    let many = ["name,password".to_owned(), ",".repeat(1000)].concat();
    assert!(error_text(many.as_bytes()).contains("the header has over 1000 columns"));
}

#[test]
fn a_table_without_measure_is_refused_at_the_limit_that_it_breaks() {
    let long = [b"name,password\na,\"".to_vec(), vec![b'x'; 33 << 20]].concat();
    assert!(error_text(&long).contains("one item in it is over 32 MiB"));
    let commas = [b"name,password\n".to_vec(), vec![b','; 33 << 20]].concat();
    assert!(error_text(&commas).contains("one item in it is over 32 MiB"));
    let value = "x".repeat(16 << 20);
    assert_eq!(password(&format!("name,password\na,{value}\n")).len(), 16 << 20);
}

#[test]
fn the_last_of_very_many_rows_is_found() {
    let count = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
    let rows: String =
        (0..count).map(|at| format!("Item {at},https://{at}.example,u,value {at},f{}\n", at % 1000)).collect();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("x"), format!("name,url,username,password,folder\n{rows}")).unwrap();
    let spec = table("x", "name", &[("password", "password"), ("folder", "folder")]);
    let started = std::time::Instant::now();
    let last = count - 1;
    let got = get(directory.path(), spec, &[&format!("f{}/Item {last}", last % 1000), "Item 7"]).unwrap();
    println!("{count} rows: {:?}", started.elapsed());
    assert_eq!(got, [format!("value {last}").into_bytes(), b"value 7".to_vec()]);
}

#[test]
fn a_row_longer_or_shorter_than_the_header_is_read_as_far_as_they_agree() {
    let directory = tempfile::tempdir().unwrap();
    // As RoboForm writes it: the last column is as many fields as it takes.
    let text = "Name,Url,Login,Pwd,Note,Folder,RfFieldsV2\n\
                nas,https://nas.example,admin,made-up-pw,,/home,\"User ID$,,,txt,admin\",\"Password$,,,pwd,made-up-pw\"\n\
                short,https://x,me,made-up-short\n\
                shorter,https://x\n";
    std::fs::write(directory.path().join("x"), text).unwrap();
    let fields = [("password", "Pwd"), ("folder", "Folder"), ("notes", "Note"), ("more", "RfFieldsV2")];
    let spec = || table("x", "Name", &fields);
    check(
        directory.path(),
        spec(),
        &[("nas", "made-up-pw"), ("/home/nas", "made-up-pw"), ("nas#notes", ""), ("short", "made-up-short")],
    );
    check_errors(
        directory.path(),
        spec(),
        &[
            ("shorter", "item \"shorter\" has no password; it has no fields"),
            ("short#notes", "item \"short\" has no field \"notes\"; it has: password"),
            ("nas#more", "\"nas#more\": its row has more fields than the header, and this is the last column"),
        ],
    );
}

#[test]
fn a_table_without_a_header_is_read_by_the_numbers_of_its_columns() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("x"), "home,nas,admin,made-up-pw,https://x,a,b\n,top,me,made-up-top\n")
        .unwrap();
    let column = |(name, index): &(&str, usize)| ((*name).to_owned(), Column::Index(*index));
    let fields = [("folder", 0), ("username", 2), ("password", 3), ("uri", 4)].iter().map(column).collect();
    let spec = CsvSpec { file: FileSpec::plain("x"), item: Column::Index(1), fields };
    let spec = || SourceSpec::Csv(spec.clone());
    check(
        directory.path(),
        spec(),
        &[("home/nas", "made-up-pw"), ("nas#uri", "https://x"), ("top", "made-up-top"), ("top#username", "me")],
    );
    check_errors(
        directory.path(),
        spec(),
        &[("top#uri", "item \"top\" has no field \"uri\"; it has: password, username")],
    );
}
