//! Properties of standard output.

use std::io::{IsTerminal, stdout};

use nix::libc;

/// The width of a pipe, or of a terminal that does not report its width.
const USUAL_WIDTH: usize = 80;

/// How a word is printed. Yellow and bright colours have a background, because on a light terminal
/// they could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Plain,
    Bold,
    Faint,
    Good,
    Warning,
    Bad,
}

impl Style {
    /// Of the sixteen colours that every terminal has.
    pub fn of(self, text: &str, colours: bool) -> String {
        let code = match self {
            _ if text.is_empty() || !colours => return text.to_string(),
            Style::Plain => return text.to_string(),
            Style::Bold => "1",
            Style::Faint => "2",
            Style::Good => "32",
            Style::Warning => "30;43",
            Style::Bad => "97;41",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Whether standard output is a terminal that a person reads.
pub fn is_read() -> bool {
    stdout().is_terminal()
}

/// Whether to print colours: standard output is a terminal that is not `dumb`, and `NO_COLOR` is
/// not set.
pub fn takes_colours() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    is_read() && !set("NO_COLOR") && !dumb
}

/// Columns of standard output: the terminal's, else 80.
pub fn width() -> usize {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize to the pointer, which is a live one of ours.
    let asked = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    match (asked, usize::from(size.ws_col)) {
        (0, columns) if columns > 0 => columns,
        _ => USUAL_WIDTH,
    }
}
