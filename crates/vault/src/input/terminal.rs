//! Asks for a password on the controlling terminal, independent of standard input. The typed text is not echoed.

use std::fs::File;
use std::io::{self, Read, Write};

use deaddrop_core::secret::Secret;
use deaddrop_core::sys::{TerminalOnSignal, open_terminal};
use nix::sys::termios::{self, LocalFlags, SetArg, Termios};
use zeroize::Zeroizing;

/// Maximum length of a line, in bytes; a terminal's own limit is 4095 (termios(3)).
const LONGEST: usize = 4096;

/// Shows `prompt` on the terminal and reads one line, without its newline.
///
/// # Errors
/// There is no terminal, or the line is too long.
pub(crate) fn ask(prompt: &str) -> io::Result<Secret> {
    let terminal = open_terminal()?;
    let silence = Silence::new(&terminal)?;
    (&terminal).write_all(deaddrop_core::shown::text(prompt).as_bytes())?;
    let mut line = Zeroizing::new(Vec::with_capacity(LONGEST));
    let result = read_line(&terminal, &mut line);
    drop(silence);
    // The newline that the user typed was not echoed.
    (&terminal).write_all(b"\n")?;
    result.map(|()| Secret::new(std::mem::take(&mut *line)))
}

fn read_line(mut terminal: &File, line: &mut Vec<u8>) -> io::Result<()> {
    let mut byte = [0];
    loop {
        match terminal.read(&mut byte) {
            Ok(0) => return Ok(()),
            Ok(_) if byte[0] == b'\n' => return Ok(()),
            Ok(_) if line.len() == LONGEST => return Err(io::Error::other("the line is over 4096 bytes")),
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Disables echo until it is dropped.
struct Silence<'t> {
    terminal: &'t File,
    before: Termios,
    _on_signal: TerminalOnSignal,
}

impl<'t> Silence<'t> {
    fn new(terminal: &'t File) -> io::Result<Self> {
        let before = termios::tcgetattr(terminal)?;
        let on_signal = TerminalOnSignal::new(terminal, &before);
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        // TCSAFLUSH discards text typed before the question.
        termios::tcsetattr(terminal, SetArg::TCSAFLUSH, &silent)?;
        Ok(Self { terminal, before, _on_signal: on_signal })
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(self.terminal, SetArg::TCSAFLUSH, &self.before);
    }
}
