//! How values look to people.

use std::{fmt::Write as _, time::Duration};

use ioex_api::{BackupStep, Friend, FriendState, Message, Path, Transfer, TransferState};
use ioex_base::{DAY_SECONDS, UnixSeconds};
use jiff::{Timestamp, tz::TimeZone};

use crate::size;

/// Rows under a heading, in columns as wide as their widest cell.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<usize>,
}

impl Table {
    /// A table with these column titles.
    #[must_use]
    pub fn new<const N: usize>(titles: [&str; N]) -> Self {
        Self { rows: vec![titles.map(str::to_uppercase).to_vec()], right: Vec::new() }
    }

    /// These columns, counted from 0, hold numbers and are aligned to the right.
    #[must_use]
    pub fn right<const N: usize>(mut self, columns: [usize; N]) -> Self {
        self.right = columns.to_vec();
        self
    }

    /// Adds a row. Control characters, which could come from another node, are replaced.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| printable(&cell)).to_vec());
    }

    /// The text; `empty` when there are no rows.
    #[must_use]
    pub fn text_or(&self, empty: &str) -> String {
        if self.rows.len() == 1 {
            return empty.to_owned();
        }
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| {
            self.rows.iter().filter_map(|row| row.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (c, cell) in row.iter().enumerate() {
                let (gap, width) = (if c > 0 { "  " } else { "" }, widths[c]);
                // Writing into a string cannot fail.
                let _ = if self.right.contains(&c) {
                    write!(line, "{gap}{cell:>width$}")
                } else {
                    write!(line, "{gap}{cell:<width$}")
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// `text` without control characters: what others typed must not steer our terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// As [`printable`], but lines stay lines.
#[must_use]
pub fn printable_lines(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(printable).collect();
    lines.join("\n")
}

/// Lines `name: value`, with the values under each other.
#[must_use]
pub fn fields<const N: usize>(fields: [(&str, String); N]) -> String {
    let width = fields.iter().map(|(name, _)| name.chars().count() + 1).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(text, "{:<width$} {}", format!("{name}:"), printable(value));
    }
    text
}

/// How a connection runs.
#[must_use]
pub fn path(path: &Path) -> String {
    match path {
        Path::Direct { address } => format!("direct {address}"),
        Path::Relayed { bootstrap } => format!("relayed by {}", bootstrap.short()),
        Path::None => "-".to_owned(),
    }
}

/// Milliseconds with two digits, or a dash.
#[must_use]
pub fn millis(ms: Option<f64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2} ms"))
}

/// A length of time in its two largest units.
#[must_use]
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..DAY_SECONDS => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / DAY_SECONDS, seconds % DAY_SECONDS / 3_600),
    }
}

/// How long until `then`, seen from `now`.
#[must_use]
pub fn until(then: UnixSeconds, now: UnixSeconds) -> String {
    if then <= now { "past".to_owned() } else { format!("in {}", duration(then.since(now))) }
}

/// How long since `then`, seen from `now`.
#[must_use]
pub fn ago(then: Option<UnixSeconds>, now: UnixSeconds) -> String {
    then.map_or_else(|| "-".to_owned(), |then| format!("{} ago", duration(now.since(then))))
}

/// A date in local time, to the minute.
#[must_use]
pub fn date(seconds: UnixSeconds) -> String {
    let time = i64::try_from(seconds.0).ok().and_then(|s| Timestamp::from_second(s).ok());
    time.map_or_else(String::new, |t| t.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string())
}

/// The system's clock.
#[must_use]
pub fn now() -> UnixSeconds {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixSeconds(since.unwrap_or(Duration::ZERO).as_secs())
}

/// Name of a transfer's state.
#[must_use]
pub fn transfer_state(state: TransferState) -> &'static str {
    match state {
        TransferState::Offered => "offered",
        TransferState::Active => "active",
        TransferState::Paused => "paused",
        TransferState::Done => "done",
        TransferState::Cancelled => "cancelled",
        TransferState::Failed => "failed",
    }
}

/// Name of a friend's state.
#[must_use]
pub fn friend_state(state: FriendState) -> &'static str {
    match state {
        FriendState::Requested => "asked by us",
        FriendState::Incoming => "asks us",
        FriendState::Friend => "friend",
    }
}

/// Name of a backup's step.
#[must_use]
pub fn step(step: BackupStep) -> &'static str {
    match step {
        BackupStep::Pack => "pack",
        BackupStep::FindHolders => "find holders",
        BackupStep::Place => "place",
        BackupStep::Renew => "renew",
        BackupStep::Index => "index",
        BackupStep::Audit => "audit",
        BackupStep::Locate => "locate",
        BackupStep::Fetch => "fetch",
        BackupStep::Join => "join",
    }
}

/// What to call a friend: the remark, else its own name, else the UID's beginning.
#[must_use]
pub fn friend_name(friend: &Friend) -> String {
    let name = [&friend.label, &friend.name].into_iter().find(|n| !n.is_empty());
    name.cloned().unwrap_or_else(|| friend.uid.short())
}

/// A transfer's files in a few words.
#[must_use]
pub fn files(transfer: &Transfer) -> String {
    match transfer.files.as_slice() {
        [] => "-".to_owned(),
        [one] => one.name.clone(),
        [first, rest @ ..] => format!("{} and {} more", first.name, rest.len()),
    }
}

/// A transfer's state on one line.
#[must_use]
pub fn transfer(transfer: &Transfer) -> String {
    let why = transfer.error.as_ref().map(|e| format!(": {}", e.message)).unwrap_or_default();
    printable(&format!(
        "transfer {} {} {}: {}, {} of {}{why}",
        transfer.id,
        if transfer.incoming { "from" } else { "to" },
        transfer.with.iter().map(ioex_base::Uid::short).collect::<Vec<_>>().join(", "),
        transfer_state(transfer.state),
        size::human(transfer.done_bytes),
        size::human(transfer.total_bytes),
    ))
}

/// A message on one line, or more when its text has more.
#[must_use]
pub fn message(message: &Message, now: UnixSeconds) -> String {
    let arrow = if message.incoming { "<-" } else { "->" };
    let state = match message.state {
        ioex_api::MessageState::Queued => " (queued)",
        ioex_api::MessageState::Delivered => "",
    };
    let text: Vec<String> = message.text.lines().map(printable).collect();
    format!(
        "{arrow} {} {}{state}: {}",
        message.with.short(),
        ago(Some(message.sent_at), now),
        text.join("\n   ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(["name", "bytes"]).right([1]);
        table.row(["a".to_owned(), "1".to_owned()]);
        table.row(["long".to_owned(), "22 kB".to_owned()]);
        assert_eq!(table.text_or("none"), "NAME  BYTES\na         1\nlong  22 kB\n");
        assert_eq!(Table::new(["x"]).text_or("none"), "none");
    }

    #[test]
    fn what_others_typed_cannot_steer_the_terminal() {
        let mut table = Table::new(["name"]);
        table.row(["\u{1b}[2Jboo\n".to_owned()]);
        assert!(!table.text_or("").contains('\u{1b}'));
        assert_eq!(table.text_or("").lines().count(), 2);
    }

    #[test]
    fn durations_have_two_units() {
        assert_eq!(duration(59), "59 s");
        assert_eq!(duration(61), "1 min 1 s");
        assert_eq!(duration(3_660), "1 h 1 min");
        assert_eq!(duration(DAY_SECONDS + 3_600), "1 d 1 h");
        assert_eq!(until(UnixSeconds(5), UnixSeconds(9)), "past");
    }
}
