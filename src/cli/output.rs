//! The only printer. A verb hands over one value; here it becomes a screen or JSON.

mod list;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;

use serde::Serialize;

use crate::app::Exit;
use crate::model::{Fault, FaultCode};

/// Widest screen: longer lines are hard to read.
const WIDTH_MAX: usize = 110;
/// Narrowest: below this wrapping makes it worse.
const WIDTH_MIN: usize = 60;
/// Column where values begin, after the labels.
const VALUE_COLUMN: usize = 15;

/// How a piece of text looks on a terminal. On anything else it is plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ink {
    Plain,
    Bold,
    Dim,
    Good,
    Warn,
    Bad,
    GoodBlock,
    WarnBlock,
    BadBlock,
}

/// Lines for people, made without knowing whether a terminal will show them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Screen {
    lines: Vec<Vec<(Ink, String)>>,
}

/// A value that people can look at.
pub(super) trait Show: Serialize {
    /// As lines of at most `width` characters, where words allow.
    fn screen(&self, width: usize) -> Screen;
}

/// Where and how it is printed.
#[derive(Debug)]
pub(super) struct Output {
    json: bool,
    colour: bool,
    terminal: bool,
    width: usize,
    /// A progress line stands on the terminal and must be removed before the next line.
    standing: Mutex<bool>,
    sink: Sink,
    /// What is printed goes here as well.
    copy: Option<Mutex<File>>,
}

#[derive(Debug)]
enum Sink {
    Stdout,
    #[cfg(test)]
    Memory(Mutex<String>),
}

// === impl Screen ===

impl Screen {
    /// Adds a line made of pieces.
    pub(super) fn line(&mut self, pieces: impl IntoIterator<Item = (Ink, String)>) {
        self.lines.push(pieces.into_iter().collect());
    }

    /// Adds an empty line.
    pub(super) fn gap(&mut self) {
        self.lines.push(Vec::new());
    }

    /// Adds `label   value`, the value wrapped below itself.
    pub(super) fn row(&mut self, label: &str, ink: Ink, value: &str, width: usize) {
        let room = width.saturating_sub(VALUE_COLUMN).max(20);
        for (n, part) in wrap(value, room).into_iter().enumerate() {
            let label = if n == 0 { label } else { "" };
            let lead = format!("  {label:<w$}", w = VALUE_COLUMN - 2);
            self.line([(Ink::Dim, lead), (ink, part)]);
        }
    }

    /// Adds text from a column on, wrapped below itself.
    pub(super) fn wrapped(&mut self, column: usize, text: &str, width: usize) {
        for part in wrap(text, width.saturating_sub(column).max(20)) {
            self.line([(Ink::Plain, format!("{}{part}", " ".repeat(column)))]);
        }
    }

    /// Adds a line of cells; the name among them is wrapped below itself, for narrow terminals.
    pub(super) fn cells(
        &mut self,
        lead: Vec<(Ink, String)>,
        (ink, name): (Ink, &str),
        room: usize,
        rest: Vec<(Ink, String)>,
    ) {
        let indent: usize = lead.iter().map(|(_, text)| text.chars().count()).sum();
        let mut parts = wrap(name, room).into_iter();
        let first = format!("{:<room$}", parts.next().unwrap_or_default());
        self.line(lead.into_iter().chain([(ink, first)]).chain(rest));
        for part in parts {
            self.line([(ink, format!("{}{part}", " ".repeat(indent)))]);
        }
    }

    /// Adds `label   piece piece…`, wrapped below itself; a mark stays with what it is of.
    pub(super) fn pieces(&mut self, label: &str, pieces: Vec<(Ink, String)>, width: usize) {
        let room = width.saturating_sub(VALUE_COLUMN).max(20);
        let lead = |label: &str| (Ink::Dim, format!("  {label:<w$}", w = VALUE_COLUMN - 2));
        let (mut line, mut used) = (vec![lead(label)], 0);
        let mut mark = None;
        for (ink, text) in &pieces {
            for word in text.split_inclusive(' ') {
                let long = word.trim_end().chars().count();
                if mark.is_none() && long == 1 && !word.starts_with(char::is_alphanumeric) {
                    mark = Some((*ink, word.to_owned()));
                    continue;
                }
                let before = mark.take().into_iter().chain([(*ink, word.to_owned())]);
                let wide: usize = before.clone().map(|(_, t)| t.chars().count()).sum();
                if used > 0 && used + wide - (word.chars().count() - long) > room {
                    self.line(std::mem::replace(&mut line, vec![lead("")]));
                    used = 0;
                }
                used += wide;
                line.extend(before);
            }
        }
        line.extend(mark);
        self.line(line);
    }

    /// Adds the lines of another screen, moved to the right.
    pub(super) fn indented(&mut self, other: Self, by: usize) {
        for mut line in other.lines {
            line.insert(0, (Ink::Plain, " ".repeat(by)));
            self.lines.push(line);
        }
    }

    /// The text, with or without escape sequences.
    pub(super) fn text(&self, colour: bool) -> String {
        let mut out = String::new();
        for line in &self.lines {
            for (ink, text) in line {
                match ink.code() {
                    Some(code) if colour && !text.is_empty() => {
                        out.push_str(&format!("\x1b[{code}m{text}\x1b[0m"));
                    }
                    Some(_) | None => out.push_str(text),
                }
            }
            out.truncate(out.trim_end_matches(' ').len());
            out.push('\n');
        }
        out
    }
}

impl Ink {
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Bold => Some("1"),
            Self::Dim => Some("2"),
            Self::Good => Some("32"),
            Self::Warn => Some("33"),
            Self::Bad => Some("31"),
            Self::GoodBlock => Some("1;30;42"),
            Self::WarnBlock => Some("1;30;43"),
            Self::BadBlock => Some("1;97;41"),
        }
    }
}

// === impl Output ===

impl Output {
    /// Standard output, as it is.
    pub(super) fn terminal(json: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let env = |name| std::env::var_os(name).filter(|v| !v.is_empty());
        let dumb = env("TERM").is_none_or(|t| t == "dumb");
        let width = terminal_size::terminal_size().map_or(80, |(w, _)| usize::from(w.0));
        Self {
            json,
            colour: terminal && !dumb && env("NO_COLOR").is_none(),
            terminal: terminal && !dumb,
            width: width.clamp(WIDTH_MIN, WIDTH_MAX),
            standing: Mutex::new(false),
            sink: Sink::Stdout,
            copy: None,
        }
    }

    /// What is printed from here on goes to a file of the day in this directory as well; its first line is the command.
    pub(super) fn also_to(&mut self, dir: &Path) -> Result<(), Fault> {
        let now = crate::seam::clock::now();
        let path = dir.join(now.strftime("pf9ctl-%Y%m%d.log").to_string());
        let opened = || {
            if !dir.is_dir() {
                DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            }
            // Never through a link: root writes where others may have been.
            let mut options = OpenOptions::new();
            options.append(true).create(true).mode(0o600);
            options.custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK);
            let mut file = options.open(&path)?;
            if !file.metadata()?.is_file() {
                return Err(std::io::Error::other("it is not a regular file"));
            }
            // Nothing secret is ever an argument.
            let words: Vec<String> = std::env::args().collect();
            writeln!(file, "{now:.0} {}", words.join(" "))?;
            Ok(file)
        };
        let file = opened().map_err(|e| {
            let why = format!("{}: {e}", path.display());
            Fault::new(FaultCode::OutputFailed, "nothing was done", why)
                .fix("name another directory with --log-dir, or leave it out")
        })?;
        self.copy = Some(Mutex::new(file));
        Ok(())
    }

    /// Into memory, 80 columns, plain.
    #[cfg(test)]
    pub(super) fn memory(json: bool) -> Self {
        Self {
            json,
            colour: false,
            terminal: false,
            width: 80,
            standing: Mutex::new(false),
            sink: Sink::Memory(Mutex::new(String::new())),
            copy: None,
        }
    }

    /// What was printed so far.
    #[cfg(test)]
    pub(super) fn printed(&self) -> String {
        match &self.sink {
            Sink::Stdout => String::new(),
            Sink::Memory(text) => text.lock().expect("lock").clone(),
        }
    }

    /// The end of a verb: its value.
    pub(super) fn show<T: Show>(&self, value: &T) {
        self.sweep();
        if self.json {
            let text = serde_json::to_string_pretty(value);
            self.print(&format!("{}\n", text.unwrap_or_default()));
        } else {
            self.print(&value.screen(self.width).text(self.colour));
        }
    }

    /// One value on a line of its own: of those that come one after the other.
    pub(super) fn json_line<T: Serialize>(&self, value: &T) {
        let text = serde_json::to_string(value);
        self.print(&format!("{}\n", text.unwrap_or_default()));
    }

    /// Text as it is, line breaks included.
    pub(super) fn raw(&self, text: &str) {
        self.sweep();
        self.print(text);
    }

    /// Lines of a verb that continues. Not part of the JSON value.
    pub(super) fn part(&self, screen: &Screen) {
        self.sweep();
        if !self.json {
            self.print(&screen.text(self.colour));
        }
    }

    /// Columns of a screen.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Lines of the terminal, if it is one.
    pub(super) fn rows(&self) -> Option<usize> {
        if !self.terminal {
            return None;
        }
        // Asked again each time: people resize.
        terminal_size::terminal_size().map(|(_, h)| usize::from(h.0))
    }

    /// The value again, in the place of the one before.
    pub(super) fn repaint<T: Show>(&self, value: &T) {
        if !self.terminal {
            return self.print(&value.screen(self.width).text(self.colour));
        }
        // Asked again each time: people resize.
        let (width, rows) =
            terminal_size::terminal_size().map_or((self.width, usize::MAX), |(w, h)| {
                (
                    usize::from(w.0).clamp(WIDTH_MIN, WIDTH_MAX),
                    usize::from(h.0),
                )
            });
        self.print(&frame(&value.screen(width).text(self.colour), rows));
    }

    /// Before the first [`Self::repaint`]: an empty screen without a cursor; what was on it scrolls away. After the last: the
    /// cursor again, below what stands there.
    pub(super) fn live(&self, begins: bool) {
        if self.terminal {
            self.print(if begins {
                "\x1b[?25l\x1b[2J"
            } else {
                "\x1b[?25h\n"
            });
        }
    }

    /// The end of a verb that failed: what, why, what to do. Returns its exit code.
    pub(super) fn fault(&self, fault: &Fault) -> Exit {
        self.sweep();
        let exit = Exit::of(fault);
        if self.json {
            let value = serde_json::json!({ "fault": fault, "exit": exit.code() });
            self.print(&format!("{value:#}\n"));
        } else {
            let line = format!("pf9ctl: {fault}\n");
            match &self.sink {
                Sink::Stdout => {
                    self.copied(&line);
                    drop(std::io::stderr().write_all(line.as_bytes()));
                }
                #[cfg(test)]
                Sink::Memory(_) => self.print(&line),
            }
        }
        exit
    }

    /// One step is done (or, with another ink, is not). Not part of the JSON value.
    pub(super) fn step(&self, ink: Ink, text: &str) {
        self.sweep();
        if self.json {
            return;
        }
        let mark = match ink {
            Ink::Good => "✓",
            Ink::Warn => "!",
            Ink::Bad => "✗",
            Ink::Plain | Ink::Bold | Ink::Dim | Ink::GoodBlock | Ink::WarnBlock | Ink::BadBlock => {
                "·"
            }
        };
        let mut screen = Screen::default();
        screen.line([(ink, format!("{mark} ")), (Ink::Plain, text.to_owned())]);
        self.print(&screen.text(self.colour));
    }

    /// What is waited for, on a terminal; it is replaced by the next line.
    pub(super) fn waiting(&self, text: &str) {
        if self.json || !self.terminal {
            return;
        }
        let text: String = text.chars().take(self.width.saturating_sub(4)).collect();
        self.print(&format!("\r\x1b[K… {text}"));
        self.set_standing(true);
    }

    /// A question with yes or no; no without a terminal to ask on.
    pub(super) fn ask(&self, question: &str) -> bool {
        self.print(&format!("{question} [y/N] "));
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer);
        read.is_ok() && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
    }

    /// Somebody sits there who can answer.
    pub(super) fn can_ask(&self) -> bool {
        !self.json && self.terminal && std::io::stdin().is_terminal()
    }

    fn sweep(&self) {
        if self.set_standing(false) {
            self.print("\r\x1b[K");
        }
    }

    fn set_standing(&self, now: bool) -> bool {
        match self.standing.lock() {
            Ok(mut standing) => std::mem::replace(&mut *standing, now),
            Err(_) => false,
        }
    }

    fn copied(&self, text: &str) {
        if let Some(file) = &self.copy
            && let Ok(mut file) = file.lock()
        {
            // The verb's work is worth more than its copy.
            drop(file.write_all(plain(text).as_bytes()));
        }
    }

    fn print(&self, text: &str) {
        self.copied(text);
        match &self.sink {
            Sink::Stdout => {
                let mut out = std::io::stdout().lock();
                // A closed pipe (`| head`) is no failure of the verb.
                drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
            }
            #[cfg(test)]
            Sink::Memory(all) => all.lock().expect("lock").push_str(text),
        }
    }
}

/// Without what only a terminal understands: `ESC [ … letter`, and what stood on a line before it was rewritten.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\x1b') {
        out.push_str(before);
        let end = after.find(|c: char| c.is_ascii_alphabetic());
        rest = end.and_then(|at| after.get(at + 1..)).unwrap_or_default();
    }
    out.push_str(rest);
    out.replace('\r', "")
}

/// Standard output for bytes that no person reads.
pub(super) fn bytes_out() -> Box<dyn Write> {
    Box::new(std::io::stdout())
}

/// clap's own words: help and version are no failure.
pub(super) fn usage(error: &clap::Error) -> Exit {
    let failed = error.use_stderr();
    drop(error.print());
    if let Some(why) = super::known::why_not(error) {
        drop(writeln!(std::io::stderr(), "\n  note: {why}"));
    }
    if failed { Exit::Usage } else { Exit::Ok }
}

/// A screen over the one before, as one piece that a terminal shows at once where it can: from the top, each line cleared
/// to its end, the rest below cleared. What does not fit is not shown: a terminal that scrolls would show the rest of each
/// screen below the one before.
fn frame(text: &str, rows: usize) -> String {
    let all = text.lines().count();
    let mut lines: Vec<&str> = text.lines().take(rows).collect();
    let cut = format!(
        "  … {} lines more than this window has",
        all.saturating_sub(rows) + 1
    );
    if all > rows {
        lines.pop();
        lines.push(&cut);
    }
    let body = lines.join("\x1b[K\r\n");
    // 2026: what comes is one change. 7: a line that is too long is truncated, and moves nothing.
    format!("\x1b[?2026h\x1b[?7l\x1b[H{body}\x1b[K\x1b[J\x1b[?7h\x1b[?2026l")
}

/// Breaks at spaces; a longer word stays whole.
pub(super) fn wrap(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let Some(line) = lines.last_mut() else { break };
        let used = line.chars().count();
        if used > 0 && used + 1 + word.chars().count() > room {
            lines.push(word.to_owned());
        } else {
            if used > 0 {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_all_that_was_printed_and_none_of_the_colours() {
        let dir = tempfile::tempdir().expect("tempdir");
        let at = dir.path().join("new");
        let mut out = Output::memory(false);
        out.also_to(&at).expect("begun");
        out.raw("\x1b[1mgood\x1b[0m\r\x1b[K and plain\n");
        let fault = Fault::new(FaultCode::TokenUsed, "cannot enrol", "the token was used");
        out.fault(&fault);
        let files: Vec<_> = std::fs::read_dir(&at).expect("list").collect();
        let file = files.first().expect("one").as_ref().expect("entry").path();
        let text = std::fs::read_to_string(&file).expect("text");
        assert!(text.contains("good and plain\n"), "{text}");
        assert!(text.contains("the token was used"), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
        // Another run continues below, and no link is followed.
        Output::memory(false).also_to(&at).expect("again");
        std::fs::rename(&file, at.join("elsewhere")).expect("rename");
        std::os::unix::fs::symlink(at.join("elsewhere"), &file).expect("link");
        Output::memory(false).also_to(&at).expect_err("a link");
    }

    #[test]
    fn long_values_wrap_below_themselves_and_words_stay_whole() {
        let mut screen = Screen::default();
        screen.row(
            "why",
            Ink::Plain,
            "aaa bbb https://long.example/very/very/long ccc",
            35,
        );
        assert_eq!(
            screen.text(false),
            "  why          aaa bbb\n               https://long.example/very/very/long\n               ccc\n"
        );
    }

    /// No line more than the window has, for then it would scroll; none of the screen before is left.
    #[test]
    fn a_screen_takes_the_place_of_the_one_before_and_never_scrolls() {
        for (text, rows, breaks, words) in [
            ("a\nb\n", 9, 1, "b"),
            ("a\nb\nc\nd\n", 3, 2, "2 lines more"),
            ("a\n", 1, 0, "a"),
        ] {
            let shown = frame(text, rows);
            assert_eq!(shown.matches('\n').count(), breaks, "{shown:?}");
            assert_eq!(shown.matches("\x1b[K").count(), breaks + 1, "{shown:?}");
            assert!(
                shown.contains(words) && shown.contains("\x1b[H") && shown.contains("\x1b[J"),
                "{shown:?}"
            );
            assert!(
                shown.starts_with("\x1b[?2026h") && shown.ends_with("\x1b[?2026l"),
                "{shown:?}"
            );
        }
    }

    #[test]
    fn colour_is_only_for_terminals() {
        let mut screen = Screen::default();
        screen.line([(Ink::Bad, "x".into()), (Ink::Plain, " y  ".into())]);
        assert_eq!(screen.text(false), "x y\n");
        assert_eq!(screen.text(true), "\x1b[31mx\x1b[0m y\n");
    }

    #[test]
    fn a_fault_is_one_line_with_its_exit_code() {
        let out = Output::memory(false);
        let fault =
            Fault::new(FaultCode::TokenUsed, "cannot enrol", "the token was used").fix("get one");
        assert_eq!(out.fault(&fault), Exit::Refused);
        assert_eq!(
            out.printed(),
            "pf9ctl: cannot enrol: the token was used; get one\n"
        );
        let out = Output::memory(true);
        out.fault(&fault);
        let json: serde_json::Value = serde_json::from_str(&out.printed()).expect("json");
        assert_eq!(
            (json["exit"].as_u64(), json["fault"]["code"].as_str()),
            (Some(77), Some("token-used"))
        );
    }
}
