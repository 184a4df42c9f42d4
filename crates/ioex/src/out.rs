//! What a command prints on stdout: text for people or JSON for programs, never both.

use std::io::{self, Write as _, stdout};

use ioex_api::{Reply, Update};
use serde::Serialize;

/// Where results go. Writing fails when whoever reads has left; `main` treats that as an end.
#[derive(Clone, Copy, Debug)]
pub struct Out {
    json: bool,
}

impl Out {
    /// For people, or with `json` for programs.
    #[must_use]
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether programs read this.
    #[must_use]
    pub fn json(self) -> bool {
        self.json
    }

    /// One object for programs, or the text that `human` makes of it.
    ///
    /// # Errors
    /// When stdout is closed.
    pub fn result<T: Serialize>(self, value: &T, human: impl FnOnce(&T) -> String) -> io::Result<()> {
        if self.json { self.object(value) } else { self.text(&human(value)) }
    }

    /// An update of a long command: a line of JSON, or the line that `human` makes of it, if any.
    ///
    /// # Errors
    /// When stdout is closed.
    pub fn update(self, update: Update, human: impl FnOnce(&Update) -> Option<String>) -> io::Result<()> {
        if self.json {
            return self.object(&Reply::Update(update));
        }
        human(&update).map_or(Ok(()), |line| self.text(&line))
    }

    /// The end of a command that had updates.
    ///
    /// # Errors
    /// When stdout is closed.
    pub fn done<T: Serialize>(self, value: &T, human: impl FnOnce(&T) -> String) -> io::Result<()> {
        if self.json {
            self.object(&Reply::Done(serde_json::to_value(value)?))
        } else {
            self.text(&human(value))
        }
    }

    /// `value` as one line of JSON.
    ///
    /// # Errors
    /// When stdout is closed.
    pub fn object<T: Serialize>(self, value: &T) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        write(&line)
    }

    /// `text`, with a line end when it is not empty.
    ///
    /// # Errors
    /// When stdout is closed.
    pub fn text(self, text: &str) -> io::Result<()> {
        let text = text.trim_end_matches('\n');
        if text.is_empty() { Ok(()) } else { write(format!("{text}\n").as_bytes()) }
    }
}

fn write(bytes: &[u8]) -> io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}
