//! Asks a person for a password on the terminal, whatever standard input is. What is typed is not shown.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

use deaddrop_core::secret::Secret;
use deaddrop_core::sys::TerminalOnSignal;
use nix::sys::termios::{self, LocalFlags, SetArg, Termios};
use zeroize::Zeroizing;

/// The longest line that is taken, in bytes; a terminal's own limit is 4095.
const LONGEST: usize = 4096;

/// Shows `prompt` on the terminal and reads one line, without its end.
///
/// # Errors
/// There is no terminal; the line is too long.
pub(crate) fn ask(prompt: &str) -> io::Result<Secret> {
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    let silence = Silence::new(&terminal)?;
    (&terminal).write_all(deaddrop_core::shown::text(prompt).as_bytes())?;
    let mut line = Zeroizing::new(Vec::with_capacity(LONGEST));
    let result = read_line(&terminal, &mut line);
    drop(silence);
    // The person's own line end was not shown.
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

/// While it lives, the terminal does not show what is typed.
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
        // What was typed before the question is no answer to it.
        termios::tcsetattr(terminal, SetArg::TCSAFLUSH, &silent)?;
        Ok(Self { terminal, before, _on_signal: on_signal })
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(self.terminal, SetArg::TCSAFLUSH, &self.before);
    }
}
