//! agenix: its script, which is a snippet of activation, or that of a service. agenix, `modules/age.nix`.

use std::collections::BTreeMap;

use deaddrop_core::tree::Tree;

use super::super::units;
use super::super::view::View;
use super::{Decrypter, EncryptedSecret, Identity, IdentityKind, MOST_IDENTITIES, MOST_SECRETS, Tool, service};

/// Maximum size of the service's script, in bytes.
const SCRIPT_LIMIT: u64 = 4 << 20;
const SERVICE: &str = "agenix-install-secrets.service";
const SNIPPET: &str = "#### Activation script snippet ";
/// The number of a generation, in a path.
const GENERATION: &str = "/$_agenix_generation";

/// What agenix does; nothing without it.
pub fn find<T: Tree>(view: &View<'_, T>, units: &str, activate: &str, unread: &mut Vec<String>) -> Option<Decrypter> {
    let snippets = activate.split(SNIPPET).skip(1);
    let snippets: String = snippets.filter(|snippet| snippet.starts_with("agenixInstall:")).collect();
    if !snippets.is_empty() {
        return script(&snippets, unread);
    }
    let unit = service(view, units, SERVICE, unread)?;
    let command = unit.commands("ExecStart").into_iter().next().and_then(|words| words.into_iter().next());
    let text = command.ok_or_else(|| format!("{SERVICE}: it has no ExecStart")).and_then(|path| {
        let text = view.text(&path, SCRIPT_LIMIT)?;
        text.ok_or_else(|| format!("{path} is not there"))
    });
    match text {
        Ok(text) => script(&text.replace("\\\n", " "), unread),
        Err(why) => {
            unread.push(why);
            None
        }
    }
}

/// One secret of the script, as far as it was read.
#[derive(Default)]
struct Block {
    name: String,
    paths: Vec<String>,
    file: Option<String>,
}

fn script(text: &str, unread: &mut Vec<String>) -> Option<Decrypter> {
    let mut identities: Vec<Identity> = Vec::new();
    let mut blocks: Vec<Block> = Vec::new();
    // The link to the generation, where all secrets are.
    let mut directory = None;
    for line in text.lines().map(str::trim) {
        if let Some(list) = line.strip_prefix("for identity in ") {
            let list = list.strip_suffix("do").unwrap_or(list).trim_end().trim_end_matches(';');
            add(&mut identities, units::words(list));
        } else if let Some(path) = line.strip_prefix("_truePath=") {
            let path = units::words(path).into_iter().next().unwrap_or_default();
            blocks.push(match path.split_once(&format!("{GENERATION}/")) {
                Some((_, name)) => Block { name: name.to_owned(), ..Block::default() },
                // `symlink = false`: the path itself.
                None => {
                    let name = path.rsplit('/').next().unwrap_or_default().to_owned();
                    Block { name, paths: vec![path], file: None }
                }
            });
            if blocks.len() > MOST_SECRETS {
                unread.push(format!("agenix: it has more than {MOST_SECRETS} secrets"));
                blocks.truncate(MOST_SECRETS);
                break;
            }
        } else if let Some((_, rest)) = line.split_once("decrypting '")
            && let Some((file, _)) = rest.split_once('\'')
        {
            blocks.last_mut().iter_mut().for_each(|block| block.file = Some(file.to_owned()));
        } else if let Some((_, rest)) = line.split_once("ln -sfT ").or_else(|| line.split_once("ln -sfn ")) {
            let words = units::words(rest);
            let (Some(from), Some(to)) = (words.first(), words.get(1)) else { continue };
            match (from.ends_with(GENERATION), blocks.last_mut()) {
                (true, _) => directory = Some(to.clone()),
                (false, Some(block)) => block.paths.extend([from.clone(), to.clone()]),
                (false, None) => {}
            }
        } else if line.contains(" --decrypt ") {
            // Older ones: `-i A -i B` on the command itself.
            let words = units::words(line);
            let named = words.windows(2).filter_map(|pair| match pair {
                [option, path] if option == "-i" && path.starts_with('/') => Some(path.clone()),
                _ => None,
            });
            add(&mut identities, named.collect());
        }
    }
    let directory = directory.unwrap_or_else(|| "/run/agenix".to_owned());
    let secret = |block: Block| {
        let mut paths = block.paths;
        // The link is named even where it would be the file itself.
        paths.dedup();
        if paths.is_empty() {
            paths.push(format!("{}/{}", directory.trim_end_matches('/'), block.name));
        }
        // All are decrypted before the users are made.
        Some(EncryptedSecret { name: block.name, paths, file: block.file?, for_users: true })
    };
    let secrets: Vec<EncryptedSecret> = blocks.into_iter().filter_map(secret).collect();
    if secrets.is_empty() {
        return None;
    }
    Some(Decrypter {
        tool: Tool::Agenix,
        identities,
        gnupg_home: None,
        made_key: None,
        secrets,
        templates: Vec::new(),
        files: BTreeMap::new(),
    })
}

/// Adds paths of identities; each secret of a script names all of them again.
fn add(identities: &mut Vec<Identity>, paths: Vec<String>) {
    for path in paths {
        if identities.len() < MOST_IDENTITIES && !identities.iter().any(|known| known.path == path) {
            identities.push(Identity { path, kind: IdentityKind::Any });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = r#"
echo "[agenix] decrypting secrets..."
test -f /etc/ssh/a || echo '[agenix] WARNING: config.age.identityPaths entry /etc/ssh/a not present!'
  _truePath="/run/agenix.d/$_agenix_generation/wifi"
echo "decrypting '/nix/store/x-wifi.age' to '$_truePath'..."
TMP_FILE="$_truePath.tmp"
IDENTITIES=()
for identity in /etc/ssh/a "/persist/b c"; do
  test -r "$identity" || continue
done
[ "/etc/wifi" != "/run/agenix/wifi" ] && ln -sfT "/run/agenix/wifi" "/etc/wifi"
  _truePath="/run/agenix.d/$_agenix_generation/plain"
echo "decrypting '/nix/store/x-plain.age' to '$_truePath'..."
for identity in /etc/ssh/a "/persist/b c"; do
  _truePath="/var/lib/own"
echo "decrypting '/nix/store/x-own.age' to '$_truePath'..."
ln -sfT "/run/agenix.d/$_agenix_generation" /run/agenix
"#;

    #[test]
    fn secrets_and_identities_are_those_of_the_script() {
        let mut unread = Vec::new();
        let found = script(SCRIPT, &mut unread).unwrap();
        let paths: Vec<&str> = found.identities.iter().map(|identity| identity.path.as_str()).collect();
        assert_eq!(paths, ["/etc/ssh/a", "/persist/b c"]);
        let secrets: Vec<(&str, &str, Vec<&str>)> = found
            .secrets
            .iter()
            .map(|secret| (&*secret.name, &*secret.file, secret.paths.iter().map(String::as_str).collect()))
            .collect();
        assert_eq!(
            secrets,
            [
                ("wifi", "/nix/store/x-wifi.age", vec!["/run/agenix/wifi", "/etc/wifi"]),
                ("plain", "/nix/store/x-plain.age", vec!["/run/agenix/plain"]),
                ("own", "/nix/store/x-own.age", vec!["/var/lib/own"]),
            ]
        );
        assert!(unread.is_empty());
    }

    #[test]
    fn identities_of_an_older_script_are_options() {
        let text = "_truePath=\"/run/agenix.d/$_agenix_generation/a\"\necho \"decrypting '/a.age' to x\"\n\
                    LANG=C /nix/store/age/bin/age --decrypt -i /etc/ssh/a -i /etc/ssh/b -o x /a.age\n\
                    [ \"/a\" != \"/run/agenix/a\" ] && ln -sfn \"/run/agenix/a\" \"/a\"\n";
        let found = script(text, &mut Vec::new()).unwrap();
        assert_eq!((found.identities.len(), found.secrets[0].paths.len()), (2, 2));
    }

    #[test]
    fn a_script_that_is_none_gives_nothing() {
        for text in [
            "",
            "_truePath=",
            "_truePath=\"\ndecrypting '",
            "decrypting 'a' to b\nln -sfT\nln -sfT a\nln -sfT a b\n",
            "for identity in do\n",
            "for identity in \"; do\n x --decrypt -i",
        ] {
            assert_eq!(script(text, &mut Vec::new()), None, "{text}");
        }
        let many = "_truePath=\"/a\"\ndecrypting 'f'\n".repeat(MOST_SECRETS + 1);
        let mut unread = Vec::new();
        assert_eq!(script(&many, &mut unread).unwrap().secrets.len(), MOST_SECRETS);
        assert_eq!(unread.len(), 1);
    }
}
