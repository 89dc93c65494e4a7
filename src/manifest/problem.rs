//! Problems of a manifest: collected while it is read, and shown together in the file's order.

use std::fmt;
use std::path::{Path, PathBuf};

use deaddrop_core::{near, shown};

use super::excerpt::{self, Excerpt};
use super::model::Location;

/// Maximum number of problems kept; a hostile file can have millions.
const MAX_KEPT: usize = 10_000;
/// Maximum number of problems that `Display` shows.
const MAX_SHOWN: usize = 100;
/// Maximum number of name comparisons for "did you mean" per run, because wrong names times hosts can be very many.
const MAX_COMPARISONS: usize = 2_000_000;

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file that contains it, if it is a template's file; `None` for the manifest.
    pub file: Option<String>,
    /// The place; `None` if it concerns the whole file.
    pub location: Option<Location>,
    /// Length of the marked text in characters, all on one line; at least 1.
    pub length: usize,
    /// One sentence without a full stop.
    pub message: String,
    /// The hint.
    pub hint: Option<String>,
    /// The line; `None` if the problem concerns the whole file.
    pub line: Option<Excerpt>,
}

/// All problems of a manifest. Never empty. `Display` is the text for the user: several lines, plain text.
#[derive(Debug)]
pub struct ManifestErrors {
    file: PathBuf,
    problems: Vec<Problem>,
    /// Number of problems beyond the limit.
    unlisted: usize,
}

impl ManifestErrors {
    /// The manifest's file as the user named it.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The problems in the file's order; at least 1, at most 10,000.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The number of problems, including those not in [`Self::problems`].
    #[must_use]
    pub fn count(&self) -> usize {
        self.problems.len().saturating_add(self.unlisted)
    }
}

impl std::error::Error for ManifestErrors {}

impl fmt::Display for ManifestErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = shown::text(&self.file.display().to_string());
        for (at, problem) in self.problems.iter().take(MAX_SHOWN).enumerate() {
            if at > 0 {
                f.write_str("\n\n")?;
            }
            write!(f, "error: {}:", problem.file.as_ref().unwrap_or(&file))?;
            if let Some(location) = problem.location {
                write!(f, "{}:{}:", location.line, location.column)?;
            }
            write!(f, " {}", problem.message)?;
            if let (Some(location), Some(line)) = (problem.location, &problem.line) {
                let number = location.line;
                write!(f, "\n{number:>5} | {}", line.text)?;
                let (before, marks) = (" ".repeat(line.start), "^".repeat(line.width));
                write!(f, "\n{:>width$} | {before}{marks}", "", width = number.to_string().len().max(5))?;
            }
            if let Some(hint) = &problem.hint {
                write!(f, "\nhint: {hint}")?;
            }
        }
        let hidden = self.count().saturating_sub(MAX_SHOWN);
        if hidden > 0 {
            write!(f, "\n\nand {hidden} more")?;
        }
        if self.count() > 1 {
            write!(f, "\n\n{} errors in {file}", self.count())?;
        }
        Ok(())
    }
}

/// A part of the manifest's text, and its start as line and column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// First byte.
    pub start: u32,
    /// Byte after the last.
    pub end: u32,
    /// 1-based line of `start`.
    pub line: u32,
    /// 1-based column of `start`, in characters.
    pub column: u32,
}

impl Mark {
    /// An empty part. The offsets fit, because a manifest has at most 16 MiB.
    pub(super) fn at(byte: usize, line: usize, column: usize) -> Self {
        let start = clamp(byte);
        Self { start, end: start, line: clamp(line), column: clamp(column) }
    }

    /// The start, for the rest of the program.
    pub(super) fn location(self) -> Location {
        Location { line: wide(self.line), column: wide(self.column) }
    }

    /// The range of bytes: first, and one after the last.
    pub(super) fn bytes(self) -> (usize, usize) {
        (wide(self.start), wide(self.end))
    }
}

impl fmt::Display for Mark {
    /// Formats as `line 14`, for messages that mention another place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)
    }
}

/// Offsets in a manifest fit 32 bits because of its size limit.
pub(super) fn clamp(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Lossless on every supported platform: `usize` has at least 32 bits.
pub(super) fn wide(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// A place in another file than the manifest.
pub(super) struct Elsewhere {
    /// The file, as the manifest names it.
    pub file: String,
    /// The place, in that file.
    pub mark: Mark,
    /// The line there.
    pub line: Excerpt,
}

/// A problem whose line has not been cut out of the text yet.
struct RawProblem {
    /// The place in the manifest. For a problem elsewhere: where the manifest names that file.
    mark: Option<Mark>,
    elsewhere: Option<Elsewhere>,
    message: String,
    hint: Option<String>,
    /// The text there is not UTF-8, so no line can be shown.
    bare: bool,
}

/// Collects problems, and the text that their lines must not show.
pub(super) struct Problems {
    found: Vec<RawProblem>,
    unlisted: usize,
    /// Byte ranges that may be a value.
    veiled: Vec<(usize, usize)>,
    comparisons_left: usize,
}

impl Default for Problems {
    fn default() -> Self {
        Self { found: Vec::new(), unlisted: 0, veiled: Vec::new(), comparisons_left: MAX_COMPARISONS }
    }
}

impl Problems {
    /// Adds a problem at a place.
    pub(super) fn push(&mut self, mark: Mark, message: impl Into<String>, hint: Option<String>) {
        self.add(RawProblem { mark: Some(mark), elsewhere: None, message: message.into(), hint, bare: false });
    }

    /// Adds a problem in another file, which the manifest names at `mark`.
    pub(super) fn push_elsewhere(&mut self, mark: Mark, elsewhere: Elsewhere, message: String, hint: Option<String>) {
        self.add(RawProblem { mark: Some(mark), elsewhere: Some(elsewhere), message, hint, bare: false });
    }

    /// Adds a problem whose line cannot be shown.
    pub(super) fn push_bare(&mut self, mark: Mark, message: String, hint: Option<String>) {
        self.add(RawProblem { mark: Some(mark), elsewhere: None, message, hint, bare: true });
    }

    /// Adds a problem of the whole file.
    pub(super) fn push_file(&mut self, message: String, hint: Option<String>) {
        self.add(RawProblem { mark: None, elsewhere: None, message, hint, bare: true });
    }

    fn add(&mut self, found: RawProblem) {
        if self.found.len() < MAX_KEPT {
            self.found.push(found);
        } else {
            self.unlisted = self.unlisted.saturating_add(1);
        }
    }

    /// Replaces this text by `…` in every line that is shown.
    pub(super) fn veil(&mut self, mark: Mark) {
        self.veiled.push(mark.bytes());
    }

    /// True if there is no problem so far.
    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// True if further problems are only counted.
    pub(super) fn is_full(&self) -> bool {
        self.found.len() >= MAX_KEPT
    }

    /// The hint for an unknown name: similar ones, if any, then `rest`.
    pub(super) fn hint<'a>(
        &mut self,
        wanted: &str,
        names: impl Iterator<Item = &'a str> + Clone,
        rest: &str,
    ) -> Option<String> {
        let allowed = self.comparisons_left;
        let mut used: usize = 0;
        let near = near::near(wanted, names.take(allowed).inspect(|_| used = used.saturating_add(1)));
        self.comparisons_left = allowed.saturating_sub(used);
        match near::did_you_mean(&near) {
            Some(question) if rest.is_empty() => Some(question),
            Some(question) => Some(format!("{question} {rest}")),
            None if rest.is_empty() => None,
            None => Some(rest.to_owned()),
        }
    }

    /// Sorts the problems, and cuts their lines out of `text`. Must not be called if empty.
    pub(super) fn finish(mut self, file: &Path, text: &str) -> ManifestErrors {
        let place = |found: &RawProblem| found.elsewhere.as_ref().map(|elsewhere| elsewhere.mark.start);
        self.found.sort_by_key(|found| (found.mark.map(|mark| mark.start), place(found)));
        // A wrong node that aliases repeat is one problem.
        self.found.dedup_by(|a, b| a.mark == b.mark && a.message == b.message && place(a) == place(b));
        let veiled = merged(self.veiled);
        let problems = self
            .found
            .into_iter()
            .map(|found| {
                if let Some(elsewhere) = found.elsewhere {
                    return Problem {
                        file: Some(shown::text(&elsewhere.file)),
                        location: Some(elsewhere.mark.location()),
                        length: elsewhere.line.width,
                        message: shown::text(&found.message),
                        hint: found.hint.as_deref().map(shown::text),
                        line: Some(elsewhere.line),
                    };
                }
                let line = found.mark.filter(|_| !found.bare).map(|mark| excerpt::cut(text, mark, &veiled));
                let length = found.mark.map_or(1, |mark| {
                    let (start, end) = mark.bytes();
                    let marked = text.get(start..end).unwrap_or_default();
                    marked.lines().next().unwrap_or_default().chars().count().max(1)
                });
                Problem {
                    file: None,
                    location: found.mark.map(Mark::location),
                    length,
                    // The message may contain names from the file.
                    message: shown::text(&found.message),
                    hint: found.hint.as_deref().map(shown::text),
                    line,
                }
            })
            .collect();
        ManifestErrors { file: file.to_owned(), problems, unlisted: self.unlisted }
    }
}

/// Sorts and merges ranges.
fn merged(mut ranges: Vec<(usize, usize)>) -> Vec<(usize, usize)> {
    ranges.sort_unstable();
    let mut out: Vec<(usize, usize)> = Vec::new();
    for (start, end) in ranges {
        match out.last_mut() {
            Some(last) if start < last.1 => last.1 = last.1.max(end),
            _ if start < end => out.push((start, end)),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Problems at these byte offsets of line 1.
    fn errors(offsets: impl Iterator<Item = usize>) -> ManifestErrors {
        let mut problems = Problems::default();
        for offset in offsets {
            problems.push(Mark::at(offset, 1, offset + 1), format!("wrong at {offset}"), Some("do it".into()));
        }
        problems.finish(Path::new("dir/m.yaml"), "abc: def\n")
    }

    #[test]
    fn one_problem_is_shown_whole_and_without_a_count() {
        let want = "error: dir/m.yaml:1:6: wrong at 5\n    1 | abc: def\n      |      ^\nhint: do it";
        assert_eq!(errors([5].into_iter()).to_string(), want);
    }

    #[test]
    fn problems_are_sorted_and_counted() {
        let text = errors([5, 2].into_iter()).to_string();
        assert!(text.find("wrong at 2").unwrap() < text.find("wrong at 5").unwrap(), "{text}");
        assert!(text.ends_with("\n\n2 errors in dir/m.yaml"), "{text}");
    }

    #[test]
    fn a_hundred_are_shown_and_the_rest_counted() {
        let text = errors(0..10_007).to_string();
        assert_eq!(text.matches("hint: ").count(), 100);
        assert!(text.ends_with("\n\nand 9907 more\n\n10007 errors in dir/m.yaml"), "{text}");
    }

    #[test]
    fn overlapping_ranges_become_one() {
        assert_eq!(merged(vec![(5, 9), (0, 2), (1, 4), (7, 8), (3, 3)]), [(0, 4), (5, 9)]);
    }
}
