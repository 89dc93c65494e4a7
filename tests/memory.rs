//! A value is nowhere in the process's memory once it is dropped, with the allocator that `main` uses.
//! One test only: others in this process would share the heap.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::os::unix::fs::FileExt;

use deaddrop::derive::expect::{Expect, Pattern};
use deaddrop::derive::format::Format;
use deaddrop::derive::password::{self, HashScheme};
use deaddrop::derive::template::Template;
use deaddrop::manifest::Manifest;
use deaddrop::place::directory::DirectoryPlace;
use deaddrop::run::part::Values;
use deaddrop::run::scan;
use deaddrop_core::secret::Secret;
use deaddrop_vault::{
    AgeSpec, Column, CsvSpec, DataFormat, FileSpec, KeePassSpec, PasswordSpec, Reference, SourceSpec, Wanted, fetch,
};
use zeroize::Zeroizing;

#[path = "exports/keepass/writer.rs"]
mod writer;

#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> = zeroizing_alloc::ZeroAlloc(std::alloc::System);

/// The value is this word so many times: whatever overwrites a part of a leftover leaves others of them whole.
const TIMES: usize = 9;

/// The word to look for, with every bit turned, so that this one is not what is found.
fn hidden() -> Vec<u8> {
    [0x66_u8, 0x30, 0x72, 0x67, 0x33, 0x74, 0x2d, 0x37, 0x21, 0x51].map(|byte| !byte).to_vec()
}

/// How often the hidden bytes stand, unhidden, in this process's writable memory.
fn count(hidden: &[u8]) -> usize {
    let memory = std::fs::File::open("/proc/self/mem").unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut piece = Zeroizing::new(vec![0; 1 << 16]);
    // Never read into itself: what was just read would be found again in it.
    let own = u64::try_from(piece.as_ptr().addr()).unwrap();
    let own = own..own + u64::try_from(piece.len()).unwrap();
    let mut found = 0;
    for line in maps.lines() {
        let mut words = line.split(' ');
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        if !rights.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        for (mut at, end) in [(start, end.min(own.start)), (start.max(own.end), end)] {
            while at < end {
                let room = usize::try_from(end - at).unwrap().min(piece.len());
                let Ok(read @ 1..) = memory.read_at(&mut piece[..room], at) else { break };
                // Turned around at once, so that the piece is not found when its own turn comes.
                piece.iter_mut().for_each(|byte| *byte = !*byte);
                let hits = piece[..read].windows(hidden.len()).filter(|window| *window == hidden);
                found += hits.count();
                // The next piece begins so that a word across the border is seen, once.
                let is_last = at + u64::try_from(read).unwrap() >= end;
                at += u64::try_from(if is_last { read } else { read - (hidden.len() - 1) }).unwrap();
            }
        }
    }
    found
}

/// A KeePass document with two entries, the second of which is not wanted, around the value.
const ENTRY: [&str; 2] = [
    "<KeePassFile><Meta/><Root><Group><UUID>AAAAAAAAAAAAAAAAAAAAAQ==</UUID><Name>R</Name>\
     <Entry><UUID>AQEBAQEBAQEBAQEBAQEBAQ==</UUID><String><Key>Title</Key><Value>x</Value></String>\
     <String><Key>Password</Key><Value>",
    "&#10;</Value></String></Entry></Group></Root></KeePassFile>",
];

/// Overwrites what earlier calls left below this frame.
#[inline(never)]
fn wipe_the_stack() {
    let mut room = [0_u8; 512 << 10];
    std::hint::black_box(&mut room);
}

/// Writes the files of every source, with the value in each. In a frame of its own, which is wiped after it.
#[inline(never)]
fn make_files(directory: &std::path::Path, hidden: &[u8]) {
    for (file, before, after) in [
        ("export.json", "{\"items\":[{\"login\":{\"password\":\"", "\\n\"},\"name\":\"x\"}]}"),
        ("env", "x=\"", "\\n\""),
        ("plain", "", ""),
        ("table", "name,password\nx,\"", "\n\"\n"),
    ] {
        let value = Zeroizing::new(hidden.repeat(TIMES).iter().map(|byte| !byte).collect::<Vec<u8>>());
        let content = Zeroizing::new([before.as_bytes(), &value, after.as_bytes()].concat());
        std::fs::write(directory.join(file), &content).unwrap();
    }
    {
        let mut zip = zip::ZipWriter::new(std::fs::File::create(directory.join("export.zip")).unwrap());
        let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file("data.json", stored).unwrap();
        let json = Zeroizing::new(std::fs::read(directory.join("export.json")).unwrap());
        zip.write_all(&json).unwrap();
        zip.finish().unwrap();
    }
    let identity = age::x25519::Identity::generate();
    let secret = identity.to_string();
    std::fs::write(directory.join("id"), age::secrecy::ExposeSecret::expose_secret(&secret)).unwrap();
    std::fs::write(directory.join("pw"), "x").unwrap();
    {
        let value = Zeroizing::new(hidden.repeat(TIMES).iter().map(|byte| !byte).collect::<Vec<u8>>());
        let xml: [&[u8]; 3] = [ENTRY[0].as_bytes(), &value, ENTRY[1].as_bytes()];
        for (file, compressed) in [("a.kdbx", true), ("b.kdbx", false)] {
            std::fs::write(directory.join(file), writer::database(&xml.concat(), compressed)).unwrap();
        }
        let recipient: &dyn age::Recipient = &identity.to_public();
        let encryptor = age::Encryptor::with_recipients(std::iter::once(recipient)).unwrap();
        let file = std::fs::File::create(directory.join("json.age")).unwrap();
        let mut writer = encryptor.wrap_output(file).unwrap();
        for part in [b"{\"x\": \"".as_slice(), &value, b"\\n\", \"other\": \"", &value, b"\"}"] {
            std::io::Write::write_all(&mut writer, part).unwrap();
        }
        writer.finish().unwrap();
    }
}

/// What is made of a value is there until it is dropped, and then the value alone.
fn made_of(value: &Secret, hidden: &[u8]) {
    let template = "{% set x = secret('v') ~ '!' %}{% if host %}{{ host }}: {% endif %}{{ x | shell_quote | trim }}";
    let template = Template::parse(template).unwrap();
    let made = template.render(Some("node1"), &HashMap::from([("v", value)])).unwrap();
    assert_eq!(count(hidden), 2 * TIMES, "a template, held");
    let expect = Expect { min_length: Some(8), regex: Some(Pattern::new("(?s).*").unwrap()), kind: None };
    expect.check(made.expose(), false).unwrap();
    assert!(Format::Yaml.check(made.expose()).is_ok());
    assert!(Format::Json.check(made.expose()).is_err());
    drop(made);
    assert_eq!(count(hidden), TIMES, "a template, dropped");
}

/// Finds the value in a root of this directory.
fn search_for_it(directory: &std::path::Path) {
    let root = directory.join("root");
    std::fs::create_dir_all(root.join("nix/store")).unwrap();
    std::fs::copy(directory.join("plain"), root.join("nix/store/leak")).unwrap();
    let text = "version: 1\nsecrets: { s: { path: /etc/s, from: \"file:plain\" } }\n";
    let manifest = Manifest::parse(text, &directory.join("secrets.yaml")).unwrap();
    let parts = scan::parts(&manifest, None, &[]).unwrap();
    let values = Values::read(&manifest, &parts, None).unwrap();
    let mut place = DirectoryPlace::open(&root).unwrap();
    let scanned = scan::scan(&manifest, &parts, &values, &mut place, &Default::default(), &|_| {}).unwrap();
    assert_eq!(scanned.findings.len(), 1);
}

#[test]
fn a_value_that_was_dropped_is_nowhere_in_memory() {
    // As `main` does.
    deaddrop_core::secret::leave_wiping_to_the_allocator();
    let hidden = hidden();
    let directory = tempfile::tempdir().unwrap();
    make_files(directory.path(), &hidden);
    // What made these files is not what is tested: what it left on the stack goes.
    wipe_the_stack();
    assert_eq!(count(&hidden), 0, "before");

    let keepass = |path: &str| {
        SourceSpec::KeePass(KeePassSpec {
            file: FileSpec { password: Some(PasswordSpec::File("pw".into())), ..FileSpec::plain(path) },
            key_file: None,
        })
    };
    let manifest = Manifest {
        file: "secrets.yaml".into(),
        directory: directory.path().to_owned(),
        sources: BTreeMap::from([
            ("vault".to_owned(), SourceSpec::Bitwarden(FileSpec::plain("export.json"))),
            ("zip".to_owned(), SourceSpec::Bitwarden(FileSpec::plain("export.zip"))),
            ("dotenv".to_owned(), SourceSpec::Dotenv(FileSpec::plain("env"))),
            ("table".to_owned(), {
                let fields = BTreeMap::from([("password".to_owned(), Column::Name("password".to_owned()))]);
                SourceSpec::Csv(CsvSpec {
                    file: FileSpec::plain("table"),
                    item: Column::Name("name".to_owned()),
                    fields,
                })
            }),
            ("keepass".to_owned(), keepass("a.kdbx")),
            ("uncompressed".to_owned(), keepass("b.kdbx")),
            (
                "age".to_owned(),
                SourceSpec::Age(AgeSpec {
                    file: FileSpec { identity: Some("id".into()), ..FileSpec::plain("json.age") },
                    format: DataFormat::Json,
                }),
            ),
        ]),
        secrets: Vec::new(),
        hosts: BTreeMap::new(),
        serial: Vec::new(),
        persist_root: None,
        allow: Default::default(),
        warnings: Vec::new(),
    };
    for (source, item) in [
        ("vault", "x"),
        ("zip", "x"),
        ("dotenv", "x"),
        ("table", "x"),
        ("keepass", "x"),
        ("uncompressed", "x"),
        ("age", "x"),
        ("file", "plain"),
    ] {
        let reference = Reference { source: source.into(), item: item.into(), field: None };
        let wanted = [Wanted { reference: &reference, secret: "s", allow_empty: false }];
        let values = fetch(&manifest.vaults(), &wanted).unwrap().values;
        // The counter-proof: as long as it is there, it is found, and in one place.
        assert_eq!(count(&hidden), TIMES, "{source}, held");
        if source == "file" {
            for scheme in [HashScheme::Yescrypt, HashScheme::Sha512crypt] {
                password::hash(scheme, &values[&reference]).unwrap();
                assert_eq!(count(&hidden), TIMES, "{scheme:?}");
            }
        }
        if source == "file" {
            made_of(&values[&reference], &hidden);
        }
        drop(values);
        assert_eq!(count(&hidden), 0, "{source}, dropped");
    }
    search_for_it(directory.path());
    assert_eq!(count(&hidden), 0, "searched for");
}
