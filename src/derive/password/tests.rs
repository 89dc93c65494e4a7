//! Our hashes compared with Debian's libcrypt, in both directions. Passwords are passed on standard input.

use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

const SCHEMES: [(HashScheme, &str); 2] = [(HashScheme::Yescrypt, "$y$j9T$"), (HashScheme::Sha512crypt, "$6$")];

fn secret(bytes: impl AsRef<[u8]>) -> Secret {
    Secret::new(bytes.as_ref().to_vec())
}

fn text(secret: &Secret) -> String {
    String::from_utf8(secret.expose().to_vec()).unwrap()
}

/// `crypt(password, setting)` of the system's libcrypt.
fn crypt(password: &[u8], setting: &str) -> String {
    let script = r#"binmode STDIN; local $/; my $in = <STDIN>; my ($setting, $password) = split /\n/, $in, 2;
                    print crypt($password, $setting) // "undef";"#;
    let mut child =
        Command::new("perl").args(["-e", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&[setting.as_bytes(), b"\n", password].concat()).unwrap();
    drop(stdin);
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn libcrypt_verifies_our_hashes_and_we_verify_its_own() {
    let long = "x".repeat(511);
    let umlauts = "Grüße, 日本 🔑";
    let bytes: &[u8] = b"\xff\x01\x80\t tab";
    let passwords: [&[u8]; 6] = [b"x", b"hunter22", &[b'y'; 64], long.as_bytes(), umlauts.as_bytes(), bytes];
    for (scheme, prefix) in SCHEMES {
        for password in passwords {
            let name = format!("{scheme:?}, {} bytes", password.len());
            let line = hash(scheme, &secret(password)).unwrap();
            let ours = text(&line);
            assert!(ours.starts_with(prefix) && ours.ends_with('\n'), "{name}");
            assert_eq!(recognise(ours.as_bytes()), Some(scheme.name()), "{name}");
            let ours = ours.trim_end();
            assert_eq!(crypt(password, ours), ours, "{name}: libcrypt makes the same of the same salt");
            assert!(verifies(line.expose(), scheme, &secret(password)), "{name}");
            assert!(!verifies(line.expose(), scheme, &secret([password, b"x"].concat())), "{name}");
        }
        let setting = match scheme {
            HashScheme::Yescrypt => "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$",
            HashScheme::Sha512crypt => "$6$saltsaltsaltsalt$",
        };
        for password in passwords {
            let theirs = crypt(password, setting);
            assert!(verifies(theirs.as_bytes(), scheme, &secret(password)), "{theirs}");
            assert_eq!(verify_any(theirs.as_bytes(), &secret(password)), Verdict::Matches, "{theirs}");
            assert_eq!(verify_any(theirs.as_bytes(), &secret(b"other")), Verdict::Differs, "{theirs}");
        }
    }
}

#[test]
fn mkpasswd_agrees() {
    for (scheme, method) in [(HashScheme::Yescrypt, "yescrypt"), (HashScheme::Sha512crypt, "sha512crypt")] {
        let mut child = Command::new("mkpasswd")
            .args(["-s", "-m", method])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"correct horse\n").unwrap();
        let line = child.wait_with_output().unwrap().stdout;
        assert!(verifies(&line, scheme, &secret(b"correct horse")), "{method}");
        assert!(!verifies(&line, scheme, &secret(b"correct horsf")), "{method}");
    }
}

#[test]
fn two_hashes_of_one_password_have_two_salts() {
    for (scheme, _) in SCHEMES {
        let password = secret(b"hunter2");
        assert_ne!(hash(scheme, &password).unwrap(), hash(scheme, &password).unwrap());
    }
}

#[test]
fn what_nobody_could_log_in_with_is_refused_with_its_reason() {
    let hash_line = hash(HashScheme::Sha512crypt, &secret(b"x")).unwrap();
    let long = vec![b'x'; 512];
    for (name, value, want) in [
        ("empty", &b""[..], "the password is empty, and its hash would let anybody in"),
        ("hash", hash_line.expose(), "the value already is a password hash (sha512crypt)"),
        ("newline", b"hunter2\n", "the password ends in a newline, which nobody can type at a login prompt"),
        ("CRLF", b"hunter2\r\n", "the password ends in a newline, which nobody can type at a login prompt"),
        ("only a newline", b"\n", "the password ends in a newline, which nobody can type at a login prompt"),
        ("two lines", b"hunter2\nx", "the password holds a line break, which nobody can type at a login prompt"),
        ("CR", b"hunter2\r", "the password holds a line break, which nobody can type at a login prompt"),
        ("NUL", b"hunter2\0x", "the password holds a NUL byte, where crypt(3) ends"),
        ("512 bytes", &long, "the password is over 511 bytes, the longest that crypt(3) takes"),
    ] {
        for (scheme, _) in SCHEMES {
            let error = hash(scheme, &secret(value)).unwrap_err();
            assert_eq!(error.to_string(), want, "{name}");
            assert!(error.hint().is_some(), "{name}");
            let all = format!("{error} {error:?} {:?}", error.hint());
            assert!(!all.contains("hunter2") && !all.contains("$6$"), "{name}: {all}");
        }
    }
}

#[test]
fn only_the_scheme_asked_for_at_no_less_than_our_cost_is_kept() {
    let password = secret(b"hunter2");
    let yescrypt = text(&hash(HashScheme::Yescrypt, &password).unwrap());
    let sha512 = text(&hash(HashScheme::Sha512crypt, &password).unwrap());
    assert!(!verifies(yescrypt.as_bytes(), HashScheme::Sha512crypt, &password));
    assert!(!verifies(sha512.as_bytes(), HashScheme::Yescrypt, &password));

    for (setting, scheme, kept, any) in [
        ("$y$j8T$saltsaltsaltsalt$", HashScheme::Yescrypt, false, Verdict::Matches),
        ("$y$j75$saltsaltsaltsalt$", HashScheme::Yescrypt, false, Verdict::Matches),
        ("$y$jAT$saltsaltsaltsalt$", HashScheme::Yescrypt, true, Verdict::Matches),
        ("$y$j95.0$saltsaltsaltsalt$", HashScheme::Yescrypt, false, Verdict::Unknown),
        ("$6$rounds=1000$salt$", HashScheme::Sha512crypt, false, Verdict::Matches),
        ("$6$rounds=4999$salt$", HashScheme::Sha512crypt, false, Verdict::Matches),
        ("$6$rounds=5000$salt$", HashScheme::Sha512crypt, true, Verdict::Matches),
        ("$6$rounds=6000$salt$", HashScheme::Sha512crypt, true, Verdict::Matches),
        ("$6$rounds=100001$salt$", HashScheme::Sha512crypt, false, Verdict::Matches),
        ("$6$$", HashScheme::Sha512crypt, false, Verdict::Unknown),
        ("$6$a@b=c$", HashScheme::Sha512crypt, false, Verdict::Unknown),
        ("$5$salt$", HashScheme::Sha512crypt, false, Verdict::Unknown),
        ("$2b$04$abcdefghijklmnopqrstuu", HashScheme::Yescrypt, false, Verdict::Unknown),
    ] {
        let text = crypt(b"hunter2", setting);
        assert!(recognise(text.as_bytes()).is_some(), "{text}");
        assert_eq!(verifies(text.as_bytes(), scheme, &password), kept, "{text}");
        assert_eq!(verify_any(text.as_bytes(), &password), any, "{text}");
    }
}

#[test]
fn a_hostile_cost_is_refused_before_anything_is_derived() {
    let (hash43, hash86) = ("h".repeat(43), "h".repeat(86));
    let start = std::time::Instant::now();
    for parameters in ["jCT", "jET", "jFT", "jzT", "j9z", "j9Tz", "/9T", "jzzzzzzz", "zzzzzzzzzz", "x", "j9T5", "...."]
    {
        let text = format!("$y${parameters}$salt.$${hash43}").replace("$$", "$");
        assert_eq!(recognise(text.as_bytes()), Some("yescrypt"), "{text}");
        assert!(!verifies(text.as_bytes(), HashScheme::Yescrypt, &secret(b"x")), "{text}");
        assert_eq!(verify_any(text.as_bytes(), &secret(b"x")), Verdict::Unknown, "{text}");
    }
    for rounds in ["999", "1000001", "999999999", "4294967296", "9999999999"] {
        let text = format!("$6$rounds={rounds}$salt${hash86}");
        assert!(!verifies(text.as_bytes(), HashScheme::Sha512crypt, &secret(b"x")), "{text}");
        assert_eq!(verify_any(text.as_bytes(), &secret(b"x")), Verdict::Unknown, "{text}");
    }
    assert!(start.elapsed() < std::time::Duration::from_secs(1));
}

#[test]
fn a_locked_account_has_another_password_than_any() {
    for (field, want) in [
        ("", Verdict::Differs),
        ("!", Verdict::Differs),
        ("!!", Verdict::Differs),
        ("*", Verdict::Differs),
        ("!*", Verdict::Differs),
        ("!$6$salt$x", Verdict::Differs),
        ("x", Verdict::Unknown),
        ("$9$whatever", Verdict::Unknown),
        ("ab0123456789.", Verdict::Unknown),
    ] {
        assert_eq!(verify_any(field.as_bytes(), &secret(b"hunter2")), want, "{field:?}");
    }
}
