//! A terminal, by tmux.

use std::process::Command;

use super::{Scratch, program, tool};

/// A session of tmux of its own, in the scratch directory; it ends with it.
pub struct Tmux {
    socket: String,
}

impl Tmux {
    /// Runs a line of sh(1) in it, with these variables.
    pub fn start(scratch: &Scratch, line: &str, env: &[(&str, &str)]) -> Self {
        let tmux = Self { socket: scratch.join("tmux").display().to_string() };
        let mut command = tmux.command(&["-f", "/dev/null", "new-session", "-d", "-x", "120", "-y", "40", line]);
        command.current_dir(scratch.path()).envs(env.iter().copied());
        tool(&mut command);
        tmux
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program("tmux"));
        command.args(["-S", &self.socket]).args(args);
        command
    }

    /// What the terminal shows.
    pub fn shown(&self) -> String {
        let shown = tool(&mut self.command(&["capture-pane", "-p", "-J"]));
        String::from_utf8(shown.stdout).unwrap()
    }

    /// Presses keys, each by its name or as text.
    pub fn keys(&self, keys: &[&str]) {
        tool(self.command(&["send-keys"]).args(keys));
    }

    /// Types a text.
    pub fn types(&self, text: &str) {
        tool(self.command(&["send-keys", "-l", "--"]).arg(text));
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.command(&["kill-server"]).output();
    }
}
