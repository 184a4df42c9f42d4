//! How restore points are named on the command line, and how the words of the recovery key are written
//! down and read again.

use std::path::{Path, PathBuf};

use ioex_api::vault::{PointFilter, PointQuery, RecoveryWords};
use ioex_vault::repo::text;
use jiff::{civil, tz::TimeZone};

use super::absolute;
use crate::{
    cli::{FilterArgs, PointArgs},
    exit::Usage,
};

/// Words in one row of those that are printed.
const WORDS_IN_ROW: usize = 6;

/// Which restore point, and of which.
pub(super) fn query(args: &PointArgs) -> anyhow::Result<(PointQuery, PointFilter)> {
    Ok((named(args.point.as_deref())?, filter(&args.of)?))
}

/// Which restore points: paths as a backup writes them down: links resolved, as far as they are there.
pub(super) fn filter(args: &FilterArgs) -> anyhow::Result<PointFilter> {
    let path = |path: &PathBuf| path.canonicalize().or_else(|_| absolute(path));
    Ok(PointFilter {
        host: args.host.clone(),
        sources: args.source.iter().map(path).collect::<Result<_, _>>()?,
        tags: args.tag.clone(),
    })
}

/// A path in a restore point, as the node is asked for it. One that is text is taken as it was typed, and may be
/// written as `ls` writes it.
pub(super) fn inside(path: &Path) -> PathBuf {
    match path.to_str() {
        Some(_) => path.to_owned(),
        None => text::shown(path.as_os_str().as_encoded_bytes()).into_owned().into(),
    }
}

/// A restore point by name, by date, or the newest.
pub(super) fn named(text: Option<&str>) -> anyhow::Result<PointQuery> {
    let Some(text) = text.filter(|t| *t != "latest") else { return Ok(PointQuery::Latest) };
    if !text.contains('-') {
        return Ok(PointQuery::Id { id: text.to_owned() });
    }
    let time = latest(text)
        .ok_or_else(|| Usage(format!("'{text}' is no date: write 2026-11-24 or 2026-11-24T08:30")))?;
    let zoned = time.to_zoned(TimeZone::system()).map_err(|e| Usage(e.to_string()))?;
    let seconds = u64::try_from(zoned.timestamp().as_second()).unwrap_or(0);
    Ok(PointQuery::At { date: ioex_base::UnixSeconds(seconds) })
}

/// The last second of a date: a day, an hour or a minute means up to its end, so that what a list shows
/// names what it shows.
fn latest(text: &str) -> Option<civil::DateTime> {
    let Some((_, clock)) = text.split_once(['T', 't', ' ']) else {
        return text.parse::<civil::Date>().ok().map(|date| date.at(23, 59, 59, 0));
    };
    let time: civil::DateTime = text.parse().ok()?;
    // What follows the clock is a time zone.
    let clock = clock.split(['+', '-', '[']).next().unwrap_or_default();
    match clock.bytes().filter(u8::is_ascii_digit).count() {
        0..=2 => time.with().minute(59).second(59).build().ok(),
        3..=4 => time.with().second(59).build().ok(),
        _ => Some(time),
    }
}

/// The words in numbered rows, for people.
pub(super) fn recovery(words: &RecoveryWords) -> String {
    let list: Vec<&str> = words.words.split_whitespace().collect();
    let rows: Vec<String> = list
        .chunks(WORDS_IN_ROW)
        .enumerate()
        .map(|(row, part)| format!("  {:>2}  {}", row * WORDS_IN_ROW + 1, part.join(" ")))
        .collect();
    format!(
        "Write these words down and keep them where nobody else finds them. With them, and the network,\n\
         everything in the repository {} can be restored; without them nothing can.\n\n{}",
        words.repo,
        rows.join("\n")
    )
}

/// The words in a text: of one with numbered rows, as they are printed, those in these rows; of the object
/// that `--json` prints, those in it; else all of them.
pub(super) fn words(text: &str) -> String {
    if let Ok(printed) = serde_json::from_str::<RecoveryWords>(text) {
        return printed.words;
    }
    let is_number = |word: &str| word.trim_end_matches(['.', ')', ':']).parse::<u32>().is_ok();
    let numbered = |line: &&str| line.split_whitespace().next().is_some_and(is_number);
    let rows: Vec<&str> = text.lines().filter(numbered).collect();
    if rows.is_empty() {
        return text.to_owned();
    }
    let words = rows.iter().flat_map(|row| row.split_whitespace()).filter(|word| !is_number(word));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> u64 {
        match named(Some(text)).unwrap() {
            PointQuery::At { date } => date.0,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn restore_points_are_named_in_three_ways() {
        assert_eq!(named(None).unwrap(), PointQuery::Latest);
        assert_eq!(named(Some("latest")).unwrap(), PointQuery::Latest);
        assert_eq!(named(Some("00ab12")).unwrap(), PointQuery::Id { id: "00ab12".into() });
        assert_eq!(at("2026-11-24 08:30"), at("2026-11-24T08:30"));
        assert!(named(Some("24-11-2026")).is_err());
        assert!(named(Some("2026-11-24T25:00")).is_err());
    }

    #[test]
    fn a_date_means_up_to_the_end_of_what_it_names() {
        assert_eq!(at("2026-11-24") - at("2026-11-24T00:00:00"), 86_399);
        assert_eq!(at("2026-11-27T17:44") - at("2026-11-27T17:44:00"), 59);
        assert_eq!(at("2026-11-27 17:44") - at("2026-11-27 17:44:00"), 59);
        assert_eq!(at("2026-11-27T17") - at("2026-11-27T17:00:00"), 3_599);
        assert_eq!(at("2026-11-27T17:44:30") - at("2026-11-27T17:44:00"), 30);
    }

    #[test]
    fn the_words_are_read_as_they_are_printed() {
        let list: Vec<String> = (0..24).map(|n| format!("word{}", ["a", "b", "c"][n % 3])).collect();
        let printed = RecoveryWords { repo: ioex_base::Uid::from_bytes([1; 32]), words: list.join(" ") };
        let text = recovery(&printed);
        assert_eq!(words(&text), printed.words);
        let (_, block) = text.split_once("\n\n").unwrap();
        assert_eq!(words(block), printed.words, "the rows alone");
        assert_eq!(words(&serde_json::to_string(&printed).unwrap()), printed.words);
        assert_eq!(words("1. one\n2. two"), "one two");
        assert_eq!(words(" zoo zoo\nzoo "), " zoo zoo\nzoo ", "the words alone");
    }
}
