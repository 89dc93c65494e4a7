//! The questions to `survey.sh`, and its answers, line by line.
//!
//! ```text
//! survey                 -> unfinished             an interrupted run has left its list
//! [!]LIMIT PATH             m NUMBER               nothing exists at this path
//! …                         l NUMBER TARGET        a symbolic link
//! .                         x NUMBER               a symbolic link whose target contains a line end
//!                           =
//!                           MODE UID GID SIZE LINKS DEV INO MTIME CTIME
//!                                                  each existing path, in order; MODE in hexadecimal
//!                           u NUMBER               of these, a file that was not read because of a link in its path
//!                           f NUMBER               of these, a file that others than root could change: its content
//!                           BASE64
//!                           ;
//!                           +                      other contents follow: of the regular files of at most LIMIT bytes,
//!                           BASE64                 joined, in order
//!                           ,                      end of a batch of 100 paths
//!                           .                      end of the answer
//! writers                -> yes | no               one line per directory: an ACL lets others write to it
//! PATH                      .
//! …
//! .
//! ```

use std::collections::HashMap;
use std::fmt::Write as _;

use deaddrop_core::secret::Secret;
use deaddrop_core::tree::{FileKind, Stat};
use zeroize::Zeroizing;

use super::error::NodeError;
use super::login::Login;
use super::session::Session;
use super::text;
use super::tree::{LONGEST_PATH, NodeFile};

/// Number of paths that the node surveys at a time.
const BATCH: usize = 100;
/// Maximum size of the answer about one path, without its content, in bytes.
const ABOUT_A_PATH: usize = 8 << 10;

/// Maximum size of all links in one answer, in bytes: every declared path could be a link.
const MOST_LINKS: usize = 4 << 20;
/// Maximum length of a stat line, in bytes.
const MOST_STAT: usize = 200;
/// Paths with their existing files.
type Answers = Vec<(String, Option<NodeFile>)>;

/// The question about these paths, each with the maximum size of a content to read. `is_foreign` is true if,
/// according to what is known already, a user other than root could replace a path.
pub(super) fn question(asked: &[(String, Option<u64>)], is_foreign: impl Fn(&str) -> bool) -> Vec<u8> {
    let mut text = String::from("survey\n");
    for (path, limit) in asked {
        let mark = if limit.is_some() && is_foreign(path) { "!" } else { "" };
        let limit = limit.map_or("-".to_owned(), |limit| format!("{mark}{limit}"));
        // OK: writing to a String cannot fail.
        let _ = writeln!(text, "{limit} {path}");
    }
    text.push_str(".\n");
    text.into_bytes()
}

/// Maximum length of the answer, in bytes.
pub(super) fn longest_answer(asked: &[(String, Option<u64>)]) -> usize {
    let contents = asked
        .iter()
        .filter_map(|(_, limit)| *limit)
        .fold(0_usize, |sum, limit| sum.saturating_add(usize::try_from(limit).unwrap_or(usize::MAX)));
    // Base64 is a third longer, and has a line end every 76 bytes.
    let contents = contents.saturating_add(contents / 2);
    asked.len().saturating_mul(ABOUT_A_PATH).saturating_add(contents).saturating_add(1 << 16)
}

/// Reads the node's first report: missing programs, and the user.
pub(super) fn abilities(session: &mut Session, login: &Login) -> Result<(), NodeError> {
    let mut lacks = Vec::new();
    let mut user = None;
    loop {
        let line = session.line()?;
        let line = String::from_utf8_lossy(&line);
        match line.split_once(' ') {
            _ if *line == *"." => break,
            Some(("lacks", program)) => lacks.push(session.values.word(program)),
            Some(("user", name)) => user = Some(session.values.word(name)),
            _ => return Err(NodeError::Garbled("its first answer")),
        }
    }
    if let Some(user) = user {
        let hint = match (&login.destination, login.becomes) {
            (None, _) => "run it as root: `sudo deaddrop rotate --local`",
            (_, None) => "log in as root, or add `become: sudo` to this host",
            _ => "its sudo or doas gives another user than root",
        };
        return Err(NodeError::refused(
            format!("the shell runs as {user}, and only root can put secrets in place"),
            hint,
        ));
    }
    if !lacks.is_empty() {
        let what = match lacks.iter().any(|program| program == "printf") {
            true => "its `sh` has no `printf` of its own, so that a value would have to be an argument".to_owned(),
            false => format!("it has no {}", lacks.join(", ")),
        };
        return Err(NodeError::refused(what, "a POSIX shell and coreutils, or busybox, are all it takes"));
    }
    Ok(())
}

/// Reads the answer to [`question`]: whether a run was interrupted, and what exists at each path. The inner error if
/// files were created, removed or changed during the survey: one of them, if it is known which.
pub(super) fn answer(
    session: &mut Session,
    asked: &[(String, Option<u64>)],
) -> Result<Result<(bool, Answers), Option<String>>, NodeError> {
    let mut unfinished = false;
    let mut answers = Vec::with_capacity(asked.len());
    let mut changed = None;
    let mut links = 0_usize;
    let mut first = session.line()?;
    if first.as_slice() == b"unfinished" {
        unfinished = true;
        first = session.line()?;
    }
    // If the last batch is full, the node sends one more, which is empty.
    for number in 0..=asked.len() / BATCH {
        let start = number.saturating_mul(BATCH).min(asked.len());
        let batch = asked.get(start..start.saturating_add(BATCH).min(asked.len())).unwrap_or_default();
        let line = if number == 0 { std::mem::take(&mut first) } else { session.line()? };
        match one_batch(session, batch, line)? {
            Ok(of_batch) => {
                let lengths = of_batch.iter().filter_map(|(_, known)| Some(known.as_ref()?.link.as_ref()?.len()));
                links = lengths.fold(links, usize::saturating_add);
                if links > MOST_LINKS {
                    return Err(NodeError::refused("its symbolic links are too long", "choose paths without links"));
                }
                answers.extend(of_batch);
            }
            Err(path) => changed = Some(path.or(changed.flatten())),
        }
    }
    if session.line()?.as_slice() != b"." {
        return Err(NodeError::Garbled("the end of a survey"));
    }
    Ok(match changed {
        None => Ok((unfinished, answers)),
        Some(path) => Err(path),
    })
}

/// Asks whether ACLs let others write to these directories.
pub(super) fn writers_question(directories: &[String]) -> Vec<u8> {
    let lines = directories.iter().map(|directory| format!("{directory}\n"));
    format!("writers\n{}.\n", lines.collect::<String>()).into_bytes()
}

/// Reads the answer to [`writers_question`], in the same order.
pub(super) fn writers(session: &mut Session, directories: &[String]) -> Result<Vec<bool>, NodeError> {
    const GARBLED: NodeError = NodeError::Garbled("a line about an ACL");
    let mut answers = Vec::with_capacity(directories.len());
    for _ in directories {
        answers.push(match session.line()?.as_slice() {
            b"yes" => true,
            b"no" => false,
            _ => return Err(GARBLED),
        });
    }
    if session.line()?.as_slice() == b"." { Ok(answers) } else { Err(GARBLED) }
}

fn one_batch(
    session: &mut Session,
    batch: &[(String, Option<u64>)],
    mut line: Zeroizing<Vec<u8>>,
) -> Result<Result<Answers, Option<String>>, NodeError> {
    const GARBLED: NodeError = NodeError::Garbled("a line of a survey");
    let mut missing = vec![false; batch.len()];
    let mut links: HashMap<usize, Option<Vec<u8>>> = HashMap::new();
    while line.as_slice() != b"=" {
        let (what, rest) = line.split_at_checked(2).ok_or(GARBLED)?;
        let digits = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
        let (index, target) = rest.split_at(digits);
        let index: usize = std::str::from_utf8(index).ok().and_then(|text| text.parse().ok()).ok_or(GARBLED)?;
        let gone = missing.get_mut(index).ok_or(GARBLED)?;
        match what {
            b"m " => *gone = true,
            // (No file system has a longer one.)
            b"l " if target.len() <= LONGEST_PATH + 1 => {
                links.insert(index, Some(target.get(1..).unwrap_or_default().to_vec()));
            }
            b"x " => drop(links.insert(index, None)),
            _ => return Err(GARBLED),
        }
        line = session.line()?;
    }
    let mut answers: Answers = Vec::with_capacity(batch.len());
    // Indices into `answers` of the files whose contents follow, with their sizes.
    let mut contents: Vec<(usize, usize)> = Vec::new();
    let standing: Vec<usize> = (0..batch.len()).filter(|index| !missing[*index]).collect();
    let mut stats = Vec::with_capacity(standing.len());
    let mut forms = vec![ContentForm::Joined; standing.len()];
    let mut line = session.line()?;
    while line.as_slice() != b"," && line.as_slice() != b"+" {
        let number = |digits: &[u8]| std::str::from_utf8(digits).ok().and_then(|text| text.parse::<usize>().ok());
        if let Some(digits) = line.strip_prefix(b"u ") {
            let one = number(digits).and_then(|number| forms.get_mut(number)).ok_or(GARBLED)?;
            *one = ContentForm::Unread;
        } else if let Some(digits) = line.strip_prefix(b"f ") {
            let number =
                number(digits).filter(|at| matches!(forms.get(*at), Some(ContentForm::Joined))).ok_or(GARBLED)?;
            let size = stats.get(number).map(|(stat, _): &(Stat, String)| stat.size).ok_or(GARBLED)?;
            let limit = standing.get(number).and_then(|index| batch.get(*index)?.1).filter(|limit| size <= *limit);
            let size = limit.and(usize::try_from(size).ok()).ok_or(GARBLED)?;
            let content = decoded(session, size, b";")?;
            let one = forms.get_mut(number).ok_or(GARBLED)?;
            *one = if content.len() == size {
                ContentForm::Separate(Secret::new(content.to_vec()))
            } else {
                ContentForm::Changed
            };
        } else if !line.is_empty() {
            stats.push(stat(&line).ok_or(GARBLED)?);
        }
        if stats.len() > standing.len() {
            return Err(GARBLED);
        }
        line = session.line()?;
    }
    let has_contents = line.as_slice() == b"+";
    let whole = stats.len() == standing.len();
    let mut stats = stats.into_iter();
    let mut forms = forms.into_iter();
    let mut changed = None;
    for (index, (path, limit)) in batch.iter().enumerate() {
        if missing[index] {
            answers.push((path.clone(), None));
            continue;
        }
        let form = forms.next();
        let known = stats.next().map(|(stat, state)| NodeFile {
            stat,
            state,
            link: links.remove(&index).flatten(),
            content: None,
        });
        if let (Some(known), Some(limit)) = (&known, limit)
            && known.stat.kind == FileKind::File
            && matches!(form, Some(ContentForm::Joined))
            && (1..=*limit).contains(&known.stat.size)
        {
            contents.push((answers.len(), usize::try_from(known.stat.size).map_err(|_| GARBLED)?));
        }
        let known = match (known, form) {
            (Some(known), Some(ContentForm::Separate(content))) => Some(NodeFile { content: Some(content), ..known }),
            (known, Some(ContentForm::Changed)) => {
                changed = Some(path.clone());
                known
            }
            (known, _) => known,
        };
        answers.push((path.clone(), known));
    }
    if has_contents {
        let want: usize = contents.iter().map(|(_, length)| length).sum();
        let bytes = decoded(session, want, b",")?;
        if bytes.len() != want || !whole {
            return Ok(Err(changed));
        }
        let mut rest = bytes.as_slice();
        for (index, length) in contents {
            let (content, after) = rest.split_at_checked(length).ok_or(GARBLED)?;
            rest = after;
            if let Some((_, Some(known))) = answers.get_mut(index) {
                known.content = Some(Secret::new(content.to_vec()));
            }
        }
    } else if !contents.is_empty() {
        return Ok(Err(changed));
    }
    Ok(if whole && changed.is_none() { Ok(answers) } else { Err(changed) })
}

/// How the answer contains the content of an existing file.
#[derive(Clone)]
enum ContentForm {
    /// Among all others, if at all.
    Joined,
    /// Separately.
    Separate(Secret),
    /// Separately, and its size has changed.
    Changed,
    /// Not at all: a link leads there.
    Unread,
}

/// Base64 up to the line `end`: about `want` bytes of it.
fn decoded(session: &mut Session, want: usize, end: &[u8]) -> Result<Zeroizing<Vec<u8>>, NodeError> {
    let room = want.saturating_add(want / 3).saturating_add(8);
    let mut text = Zeroizing::new(Vec::with_capacity(room));
    loop {
        let line = session.line()?;
        if line.as_slice() == end {
            return text::from_base64(&text).ok_or(NodeError::Garbled("contents that are not base64"));
        }
        if text.len().saturating_add(line.len()) > room.saturating_add(1 << 10) {
            // Files that grew: the rest is skipped.
            continue;
        }
        text.extend_from_slice(&line);
    }
}

/// One line of `stat -c '%f %u %g %s %h %d %i %Y %Z'`.
fn stat(line: &[u8]) -> Option<(Stat, String)> {
    // Nine numbers of 64 bits, parts of which are stored as text.
    let line = std::str::from_utf8(line).ok().filter(|line| line.len() <= MOST_STAT)?;
    let fields: Vec<&str> = line.split(' ').collect();
    let [mode, uid, gid, size, links, device, inode, modified, changed] = fields.as_slice() else { return None };
    let mode = u32::from_str_radix(mode, 16).ok()?;
    // inode(7), S_IFMT.
    let kind = match mode & 0o170_000 {
        0o100_000 => FileKind::File,
        0o040_000 => FileKind::Directory,
        0o120_000 => FileKind::Symlink,
        0o060_000 => FileKind::BlockDevice,
        0o020_000 => FileKind::CharacterDevice,
        0o010_000 => FileKind::Fifo,
        0o140_000 => FileKind::Socket,
        _ => return None,
    };
    let (uid, gid, size, links) = (uid.parse().ok()?, gid.parse().ok()?, size.parse().ok()?, links.parse().ok()?);
    if device.parse::<u64>().is_err() || changed.parse::<i64>().is_err() {
        return None;
    }
    let state = format!("{device}:{inode}:{size}:{modified}:{changed}");
    let (inode, modified) = (inode.parse().ok()?, modified.parse().ok()?);
    Some((Stat { kind, mode: mode & 0o7777, uid, gid, size, links, inode, modified }, state))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_line_of_stat_is_read_and_anything_else_is_not() {
        let (found, state) = stat(b"8100 0 5 40 1 2049 77 1690000000 1700000000").unwrap();
        assert_eq!((found.kind, found.mode, found.uid, found.gid), (FileKind::File, 0o400, 0, 5));
        assert_eq!((found.size, found.links, state.as_str()), (40, 1, "2049:77:40:1690000000:1700000000"));
        assert_eq!(stat(b"a1ff 0 0 7 1 1 1 1 1").unwrap().0.kind, FileKind::Symlink);
        for line in [
            "",
            "8100 0 0 1 1 1 1",
            &format!("8100 0 0 1 1 1 {:0>200} 1 1", 1),
            "8100 0 0 1 1 1 1 1 1 1",
            "8100 -1 0 1 1 1 1 1 1",
            "g 0 0 1 1 1 1 1 1",
            "0 0 0 1 1 1 1 1 1",
        ] {
            assert!(stat(line.as_bytes()).is_none(), "{line}");
        }
    }

    #[test]
    fn a_node_that_answers_anything_at_all_is_an_error_or_an_answer() {
        const GOOD: [&str; 7] = ["=", "8100 0 0 3 1 1 1 1 1", "41ed 0 0 9 2 1 1 1 1", "+", "YWJj", ",", "."];
        const WORDS: [&str; 22] = [
            "m 0",
            "m 1",
            "m 99",
            "m",
            "l 0 /x",
            "l 1 ",
            "l 18446744073709551616 x",
            "x 1",
            "=",
            ",",
            "+",
            ".",
            "",
            "8100 0 0 3 1 1 1 1 1",
            "8100 0 0 18446744073709551615 1 1 1 1 1",
            "a1ff 0 0 9 2 1 1 1 1",
            "YWJj",
            "YWJ",
            "\u{1b}[2J",
            "unfinished",
            "é",
            "8100 0 0 100 1 1 1 1 1",
        ];
        let asked = [("/etc/x".to_owned(), Some(100)), ("/etc".to_owned(), None)];
        // A simple generator, so that a failure can be reproduced.
        let mut state: u64 = 9;
        let mut below = |limit: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 40).unwrap() % limit
        };
        let mut answered = 0;
        for changes in 0..100 {
            let mut lines = GOOD.to_vec();
            // The first answer is valid.
            for _ in 0..(changes + 24) / 25 {
                let (at, word) = (below(lines.len()), WORDS[below(WORDS.len())]);
                match below(3) {
                    0 => lines[at] = word,
                    1 => lines.insert(at, word),
                    _ => drop(lines.remove(at)),
                }
            }
            let text = format!("{}\n", lines.join("\n"));
            let mut session = Session::answering(text.as_bytes(), Duration::from_secs(60));
            session.limits().expect(longest_answer(&asked), Duration::from_millis(50));
            answered += usize::from(answer(&mut session, &asked).is_ok());
        }
        assert!((1..60).contains(&answered), "{answered} are answers");
    }

    #[test]
    fn an_answer_without_an_end_is_not_read_for_ever() {
        let asked = [("/etc/x".to_owned(), Some(10))];
        for line in ["m 0\n".repeat(100_000), "x".repeat(200_000), format!("m 0\n=\n+\n{}", "YWJj\n".repeat(60_000))] {
            let mut session = Session::answering(line.as_bytes(), Duration::from_secs(60));
            session.limits().expect(longest_answer(&asked), Duration::from_secs(60));
            assert!(matches!(answer(&mut session, &asked), Err(NodeError::Garbled(_))));
        }
    }

    #[test]
    fn an_answer_can_be_as_long_as_what_was_asked_for_and_no_longer() {
        let asked = [("/etc/x".to_owned(), Some(1 << 20)), ("/etc".to_owned(), None)];
        assert!(longest_answer(&asked) > (1 << 20) * 4 / 3 + (1 << 20) / 50);
        assert!(longest_answer(&asked) < 2 << 20);
        assert_eq!(question(&asked, |_| false), b"survey\n1048576 /etc/x\n- /etc\n.\n");
    }
}
