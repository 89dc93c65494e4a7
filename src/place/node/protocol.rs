//! What `survey.sh` is asked and answers, line by line.
//!
//! ```text
//! survey                         -> unfinished            if an interrupted run has left its list
//! [!]LIMIT PATH   up to 100      -> m NUMBER              nothing stands there
//! …                                 l NUMBER TARGET       a symbolic link
//! .               the end           x NUMBER              one whose target holds a line end
//!                                   =
//!                                   MODE UID GID SIZE LINKS DEV INO MTIME CTIME   of each path that stands, in order; MODE in hexadecimal
//!                                   u NUMBER              of those that stand, one whose content is not read: a link leads there
//!                                   f NUMBER              one that somebody else than root could change: what is in it, up to `;`
//!                                   BASE64
//!                                   ;
//!                                   +                     if other contents follow: of the regular files of at most LIMIT bytes, one after
//!                                   BASE64                another, in order
//!                                   ,                     the end of the hundred
//!                                -> .                     the end
//! writers                        -> yes | no              a line a directory: whether an ACL lets others write to it
//! PATH                              .
//! …
//! .
//! recover                        -> left PATH             a line a file that is neither the run's old nor its new one
//! or recover forget                 gave-up PATH          a line a name in a directory that is not there (only with `forget`)
//!                                   recovered HOW, HOW being back, finished or nothing; or refused WHY
//!                                   .
//! ```

use std::collections::HashMap;
use std::fmt::Write as _;

use deaddrop_core::secret::Secret;
use deaddrop_core::tree::{FileKind, Stat};
use zeroize::Zeroizing;

use super::error::NodeError;
use super::text;
use super::transport::{Login, Session};
use super::tree::{Known, LONGEST_PATH};

/// Paths that the node looks at in one go.
const BATCH: usize = 100;
/// The most bytes about one path, its content left out.
const ABOUT_A_PATH: usize = 8 << 10;

/// The most bytes of links in one answer: the declared paths could all be links.
const MOST_LINKS: usize = 4 << 20;
/// The longest line about a path, in bytes.
const MOST_STAT: usize = 200;
/// The most files of an interrupted run that are told by name: a manifest has as many secrets.
const MOST_LEFT: usize = 10_000;

/// A path and what stands there.
type Learnt = Vec<(String, Option<Known>)>;

/// The question after these paths, with the size up to which a file's content is wanted. `is_foreign` tells of what is known already
/// whether somebody else than root could put something in a path's place.
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

/// How long the answer can be, in bytes.
pub(super) fn longest_answer(asked: &[(String, Option<u64>)]) -> usize {
    let contents = asked
        .iter()
        .filter_map(|(_, limit)| *limit)
        .fold(0_usize, |sum, limit| sum.saturating_add(usize::try_from(limit).unwrap_or(usize::MAX)));
    // Base64 is a third longer, and has a line end for each 76 bytes.
    let contents = contents.saturating_add(contents / 2);
    asked.len().saturating_mul(ABOUT_A_PATH).saturating_add(contents).saturating_add(1 << 16)
}

/// What the node says about itself before anything else.
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

/// The answer to [`question`]: whether a run was interrupted, and what stands at each path. The inner error when files came, went or
/// changed while they were looked at: one of them, if it is known which.
pub(super) fn answer(
    session: &mut Session,
    asked: &[(String, Option<u64>)],
) -> Result<Result<(bool, Learnt), Option<String>>, NodeError> {
    let mut unfinished = false;
    let mut learnt = Vec::with_capacity(asked.len());
    let mut moving = None;
    let mut links = 0_usize;
    let mut first = session.line()?;
    if first.as_slice() == b"unfinished" {
        unfinished = true;
        first = session.line()?;
    }
    // The node looks at one batch more when the last one is full; it is empty then.
    for number in 0..=asked.len() / BATCH {
        let start = number.saturating_mul(BATCH).min(asked.len());
        let batch = asked.get(start..start.saturating_add(BATCH).min(asked.len())).unwrap_or_default();
        let line = if number == 0 { std::mem::take(&mut first) } else { session.line()? };
        match one_batch(session, batch, line)? {
            Ok(answers) => {
                let lengths = answers.iter().filter_map(|(_, known)| Some(known.as_ref()?.link.as_ref()?.len()));
                links = lengths.fold(links, usize::saturating_add);
                if links > MOST_LINKS {
                    return Err(NodeError::refused("its symbolic links are too long", "choose paths without links"));
                }
                learnt.extend(answers);
            }
            Err(path) => moving = Some(path.or(moving.flatten())),
        }
    }
    if session.line()?.as_slice() != b"." {
        return Err(NodeError::Garbled("the end of a survey"));
    }
    Ok(match moving {
        None => Ok((unfinished, learnt)),
        Some(path) => Err(path),
    })
}

/// The question whether ACLs let others write to these directories.
pub(super) fn writers_question(directories: &[String]) -> Vec<u8> {
    let lines = directories.iter().map(|directory| format!("{directory}\n"));
    format!("writers\n{}.\n", lines.collect::<String>()).into_bytes()
}

/// The answer to [`writers_question`], in the same order.
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
) -> Result<Result<Learnt, Option<String>>, NodeError> {
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
    let mut answers: Learnt = Vec::with_capacity(batch.len());
    // Indices into `answers` of the files whose contents follow, and how long each is.
    let mut contents: Vec<(usize, usize)> = Vec::new();
    let standing: Vec<usize> = (0..batch.len()).filter(|index| !missing[*index]).collect();
    let mut stats = Vec::with_capacity(standing.len());
    let mut told = vec![Told::Together; standing.len()];
    let mut line = session.line()?;
    while line.as_slice() != b"," && line.as_slice() != b"+" {
        let number = |digits: &[u8]| std::str::from_utf8(digits).ok().and_then(|text| text.parse::<usize>().ok());
        if let Some(digits) = line.strip_prefix(b"u ") {
            let one = number(digits).and_then(|number| told.get_mut(number)).ok_or(GARBLED)?;
            *one = Told::Unread;
        } else if let Some(digits) = line.strip_prefix(b"f ") {
            let number = number(digits).filter(|at| matches!(told.get(*at), Some(Told::Together))).ok_or(GARBLED)?;
            let size = stats.get(number).map(|(stat, _): &(Stat, String)| stat.size).ok_or(GARBLED)?;
            let limit = standing.get(number).and_then(|index| batch.get(*index)?.1).filter(|limit| size <= *limit);
            let size = limit.and(usize::try_from(size).ok()).ok_or(GARBLED)?;
            let content = decoded(session, size, b";")?;
            let one = told.get_mut(number).ok_or(GARBLED)?;
            *one = if content.len() == size { Told::Alone(Secret::new(content.to_vec())) } else { Told::Moving };
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
    let mut told = told.into_iter();
    let mut moving = None;
    for (index, (path, limit)) in batch.iter().enumerate() {
        if missing[index] {
            answers.push((path.clone(), None));
            continue;
        }
        let told = told.next();
        let known = stats.next().map(|(stat, state)| Known {
            stat,
            state,
            link: links.remove(&index).flatten(),
            content: None,
        });
        if let (Some(known), Some(limit)) = (&known, limit)
            && known.stat.kind == FileKind::File
            && matches!(told, Some(Told::Together))
            && (1..=*limit).contains(&known.stat.size)
        {
            contents.push((answers.len(), usize::try_from(known.stat.size).map_err(|_| GARBLED)?));
        }
        let known = match (known, told) {
            (Some(known), Some(Told::Alone(content))) => Some(Known { content: Some(content), ..known }),
            (known, Some(Told::Moving)) => {
                moving = Some(path.clone());
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
            return Ok(Err(moving));
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
        return Ok(Err(moving));
    }
    Ok(if whole && moving.is_none() { Ok(answers) } else { Err(moving) })
}

/// How the content of a file that stands is told.
#[derive(Clone)]
enum Told {
    /// Among all others, if it is told.
    Together,
    /// By itself.
    Alone(Secret),
    /// By itself, and it is not as long as it was.
    Moving,
    /// It is not: a link leads there.
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
            // Files that grew: the rest is read over.
            continue;
        }
        text.extend_from_slice(&line);
    }
}

/// One line of `stat -c '%f %u %g %s %h %d %i %Y %Z'`.
fn stat(line: &[u8]) -> Option<(Stat, String)> {
    // Nine numbers of 64 bits: a part of it is kept as it is.
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

/// What was done about an interrupted run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Its old files came back; else its new ones stay.
    pub taken_back: bool,
    /// Files that were neither, and were left alone.
    pub left: Vec<String>,
    /// Names in directories that were not there, and that nobody looks after any more.
    pub given_up: Vec<String>,
}

/// The answer to `recover`; `None` when there was nothing to be done.
pub(super) fn recovered(session: &mut Session) -> Result<Option<Recovery>, NodeError> {
    let (mut left, mut given_up) = (Vec::new(), Vec::new());
    let line = loop {
        let line = session.line()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        match line.split_once(' ') {
            Some(("left" | "gave-up", _)) if left.len().saturating_add(given_up.len()) >= MOST_LEFT => {
                return Err(NodeError::Garbled("the answer to `recover`"));
            }
            Some(("left", path)) => left.push(session.values.word(path)),
            Some(("gave-up", path)) => given_up.push(session.values.word(path)),
            _ => break line,
        }
    };
    match (session.line()?.as_slice(), line.as_str()) {
        (b".", "recovered nothing") => Ok(None),
        (b".", "recovered back") => Ok(Some(Recovery { taken_back: true, left, given_up })),
        (b".", "recovered finished") => Ok(Some(Recovery { taken_back: false, left, given_up })),
        (b".", "refused locked") => Err(locked()),
        (b".", refused) if refused.starts_with("refused missing ") => {
            let directory = session.values.word(refused.trim_start_matches("refused missing "));
            Err(NodeError::refused(
                format!(
                    "an interrupted run cannot be taken back: {directory} is not there, or is another directory than then"
                ),
                "mount what was there and run it again; or give up the files in it, and finish the others: --forget-list",
            ))
        }
        (b".", refused) if refused.starts_with("refused stuck ") => {
            let path = session.values.word(refused.trim_start_matches("refused stuck "));
            Err(NodeError::refused(
                format!("an interrupted run cannot be taken back: {path} cannot be put back"),
                "look at the file system there; /var/lib/deaddrop/list says what the run was about",
            ))
        }
        _ => Err(NodeError::Garbled("the answer to `recover`")),
    }
}

/// Another run holds the lock.
pub(super) fn locked() -> NodeError {
    NodeError::refused("another deaddrop is at work there", "run it again when that one is done")
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

    /// A node that answers this.
    fn hostile(answer: &[u8], silence: Duration) -> Session {
        let login = Login::here(silence);
        let mut session = Session::start(&login, "echo; echo \"$nonce hello\"; exec cat").unwrap();
        session.queue(answer);
        session.greet().unwrap();
        session
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
        // A simple generator, so that a failure can be repeated.
        let mut state: u64 = 9;
        let mut below = |limit: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 40).unwrap() % limit
        };
        let mut answered = 0;
        for changes in 0..100 {
            let mut lines = GOOD.to_vec();
            // The first is left as it is.
            for _ in 0..(changes + 24) / 25 {
                let (at, word) = (below(lines.len()), WORDS[below(WORDS.len())]);
                match below(3) {
                    0 => lines[at] = word,
                    1 => lines.insert(at, word),
                    _ => drop(lines.remove(at)),
                }
            }
            let text = format!("{}\n", lines.join("\n"));
            let mut session = hostile(text.as_bytes(), Duration::from_secs(60));
            session.expect(longest_answer(&asked), Duration::from_millis(50));
            answered += usize::from(answer(&mut session, &asked).is_ok());
        }
        assert!((1..60).contains(&answered), "{answered} are answers");
    }

    #[test]
    fn what_was_done_about_an_interrupted_run_is_told_with_its_names() {
        let recovery = |taken_back, left: &[&str], given_up: &[&str]| {
            let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            Some(Recovery { taken_back, left: names(left), given_up: names(given_up) })
        };
        for (said, want) in [
            ("recovered nothing", Ok(None)),
            ("recovered finished", Ok(recovery(false, &[], &[]))),
            ("left /a b\ngave-up /c\nrecovered back", Ok(recovery(true, &["/a b"], &["/c"]))),
            ("refused locked", Err("another deaddrop is at work there")),
            (
                "refused missing /srv/x",
                Err("an interrupted run cannot be taken back: /srv/x is not there, or is another directory than then"),
            ),
            ("refused stuck /x", Err("an interrupted run cannot be taken back: /x cannot be put back")),
            ("gave-up", Err("it does not answer as deaddrop's program does")),
        ] {
            let mut session = hostile(format!("{said}\n.\n").as_bytes(), Duration::from_secs(60));
            session.expect(1000, Duration::from_secs(60));
            match (recovered(&mut session), want) {
                (Ok(found), Ok(want)) => assert_eq!(found, want, "{said}"),
                (Err(NodeError::Garbled(_)), Err(want)) => assert!(want.starts_with("it does not answer"), "{said}"),
                (Err(error), Err(want)) => assert_eq!(error.to_string(), want, "{said}"),
                (found, _) => panic!("{said}: {found:?}"),
            }
        }
    }

    #[test]
    fn an_answer_without_an_end_is_not_read_for_ever() {
        let asked = [("/etc/x".to_owned(), Some(10))];
        for line in ["m 0\n".repeat(100_000), "x".repeat(200_000), format!("m 0\n=\n+\n{}", "YWJj\n".repeat(60_000))] {
            let mut session = hostile(line.as_bytes(), Duration::from_secs(60));
            session.expect(longest_answer(&asked), Duration::from_secs(60));
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
