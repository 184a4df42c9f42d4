//! What a device's owner set for what it does for others (requirement B4): a file in the data
//! folder that `ioex device set` writes, of which this module knows the form.
//!
//! The configuration of the node has the first word on the space (`lend_bytes`); what stands in this
//! file has the last.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use ioex_api::{DeviceChanges, When};
use serde::{Deserialize, Serialize};

use crate::{node::files, size};

/// The file, inside the data folder.
pub const DEVICE_FILE: &str = "device.toml";
/// Folder of what is held, inside the data folder, where the owner named none.
const SHARDS_DIR: &str = "shards";
/// Version of the file's form.
const VERSION: u32 = 1;
/// Longest file that is read, in bytes: a dozen lines, and a long path.
const FILE_MAX_BYTES: usize = 64 * 1024;
/// Slowest upload that can be set, in bytes per second: with less, no restore would ever end. To
/// give nothing there is `ioex device off`.
pub const UPLOAD_MIN: u64 = 1_000;
const MINUTES_OF_DAY: u16 = 24 * 60;

/// A part of each day, in local time. It may go over midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    /// First minute of the day.
    from: u16,
    /// The minute after the last.
    to: u16,
}

impl Hours {
    /// Whether a minute of the day lies within.
    #[must_use]
    pub fn contains(self, minute: u16) -> bool {
        if self.from < self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        }
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

/// A value that makes no sense; says what would.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ValueError {
    /// No hours.
    #[error("'{0}' are no hours: write them like 22:00-06:00, in local time, or 'always'")]
    Hours(String),
    /// Hours that begin when they end.
    #[error("'{0}' is no time at all: write 'always', or switch the device off with `ioex device off`")]
    NoHours(String),
    /// No rate.
    #[error("'{0}' is no rate: write a size per second, such as 2MB/s, or 'unlimited'")]
    Rate(String),
    /// A folder that depends on where a program was started.
    #[error("the folder '{}' is not absolute", .0.display())]
    Relative(PathBuf),
    /// A rate that moves nothing.
    #[error("an upload of less than {UPLOAD_MIN} bytes per second moves nothing: use `ioex device off`")]
    Slow,
}

fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let digits = |part: &str| (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(hours) || minutes.len() != 2 || !digits(minutes) {
        return None;
    }
    let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= MINUTES_OF_DAY).then_some(minute)
}

impl FromStr for Hours {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError::Hours(text.to_owned());
        let (from, to) = text.trim().split_once('-').ok_or_else(wrong)?;
        let (from, to) = (minute(from.trim()).ok_or_else(wrong)?, minute(to.trim()).ok_or_else(wrong)?);
        let hours = Self { from: from % MINUTES_OF_DAY, to: to % MINUTES_OF_DAY };
        if from == 0 && to == MINUTES_OF_DAY {
            // The whole day has a word of its own.
            return Err(wrong());
        }
        if hours.from == hours.to { Err(ValueError::NoHours(text.to_owned())) } else { Ok(hours) }
    }
}

/// Reads hours, or `always`.
///
/// # Errors
/// [`ValueError`], which says what to write.
pub fn hours(text: &str) -> Result<Option<Hours>, ValueError> {
    if text.trim() == "always" { Ok(None) } else { text.parse().map(Some) }
}

/// Reads a rate in bytes per second, or `unlimited`.
///
/// # Errors
/// [`ValueError`], which says what to write.
pub fn rate(text: &str) -> Result<Option<u64>, ValueError> {
    let trimmed = text.trim();
    if trimmed == "unlimited" {
        return Ok(None);
    }
    let size = trimmed.strip_suffix("/s").unwrap_or(trimmed);
    match size::parse(size).map_err(|_| ValueError::Rate(text.to_owned()))? {
        slow if slow < UPLOAD_MIN => Err(ValueError::Slow),
        rate => Ok(Some(rate)),
    }
}

/// What the owner set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSettings {
    /// Space for others in bytes; the configuration's `lend_bytes` where the owner set none.
    pub space_bytes: Option<u64>,
    /// Folder of what is held; `shards` in the data folder where the owner named none.
    pub dir: Option<PathBuf>,
    /// Bytes per second that others may get; without limit where the owner set none.
    pub upload: Option<u64>,
    /// When the device does something for others; always where the owner set none.
    pub hours: Option<Hours>,
    /// What to do on a metered link.
    pub metered: When,
    /// What to do on battery.
    pub battery: When,
    /// Whether the device does anything for others at all.
    pub enabled: bool,
    /// Whether it gives back all that it holds.
    pub leaving: bool,
    /// A folder from which all was moved to `dir`, and that is to be removed.
    pub moved_from: Option<PathBuf>,
}

impl Default for DeviceSettings {
    fn default() -> Self {
        Self {
            space_bytes: None,
            dir: None,
            upload: None,
            hours: None,
            metered: When::Auto,
            battery: When::Auto,
            enabled: true,
            leaving: false,
            moved_from: None,
        }
    }
}

/// The file's form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "some_size")]
    space_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dir: Option<PathBuf>,
    #[serde(default = "unlimited")]
    upload: String,
    #[serde(default = "always")]
    hours: String,
    #[serde(default = "auto")]
    metered: When,
    #[serde(default = "auto")]
    battery: When,
    #[serde(default = "yes")]
    enabled: bool,
    #[serde(default)]
    leaving: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    moved_from: Option<PathBuf>,
}

fn some_size<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    size::deserialize(d).map(Some)
}

fn unlimited() -> String {
    "unlimited".to_owned()
}

fn always() -> String {
    "always".to_owned()
}

fn auto() -> When {
    When::Auto
}

fn yes() -> bool {
    true
}

/// Why the settings could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The system refused.
    #[error("cannot {what} {path}", path = .path.display())]
    Io {
        /// `read` or `write`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not the settings of a device.
    #[error("{path} makes no sense: {why}. Correct it, or move it away to begin with the defaults", path = .path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// Where, and why.
        why: String,
    },
}

impl DeviceSettings {
    /// Reads the settings of the device with this data folder; the defaults where there are none.
    ///
    /// # Errors
    /// When the file is there and cannot be read, or makes no sense: what the owner set must not be
    /// forgotten.
    pub fn load(data: &Path) -> Result<Self, DeviceError> {
        let path = data.join(DEVICE_FILE);
        let text = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(DeviceError::Io { what: "read", path, source }),
        };
        let form = |why: String| DeviceError::Form { path: path.clone(), why };
        if text.len() > FILE_MAX_BYTES {
            return Err(form(format!("it has {} bytes, at most {FILE_MAX_BYTES} are read", text.len())));
        }
        let text = String::from_utf8(text).map_err(|_| form("it is no text".to_owned()))?;
        Self::from_toml(&text).map_err(form)
    }

    /// Reads the text of a settings file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct VersionOnly {
            version: u32,
        }
        // A newer file may have any other keys.
        let VersionOnly { version } = toml::from_str(text).map_err(|e| e.to_string())?;
        if version != VERSION {
            return Err(format!("it has version {version}, this program reads version {VERSION}: update it"));
        }
        let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
        Ok(Self {
            space_bytes: file.space_bytes,
            dir: file.dir,
            upload: rate(&file.upload).map_err(|e| e.to_string())?,
            hours: hours(&file.hours).map_err(|e| e.to_string())?,
            metered: file.metered,
            battery: file.battery,
            enabled: file.enabled,
            leaving: file.leaving,
            moved_from: file.moved_from,
        })
    }

    /// The text of the settings file.
    ///
    /// # Errors
    /// When a path is no text.
    pub fn to_toml(&self) -> Result<String, String> {
        let file = File {
            version: VERSION,
            space_bytes: self.space_bytes,
            dir: self.dir.clone(),
            upload: self.upload.map_or_else(unlimited, |rate| format!("{rate}B/s")),
            hours: self.hours_text(),
            metered: self.metered,
            battery: self.battery,
            enabled: self.enabled,
            leaving: self.leaving,
            moved_from: self.moved_from.clone(),
        };
        let body = toml::to_string(&file).map_err(|e| e.to_string())?;
        Ok(format!("# Written by `ioex device`; see docs/cli.md.\n{body}"))
    }

    /// Writes the settings durably. After a crash the old or the new ones are there.
    ///
    /// # Errors
    /// When they cannot be written; the old ones are there then.
    pub fn save(&self, data: &Path) -> Result<(), DeviceError> {
        let path = data.join(DEVICE_FILE);
        let text = self.to_toml().map_err(|why| DeviceError::Form { path: path.clone(), why })?;
        files::replace_private(&path, text.as_bytes()).map_err(|source| DeviceError::Io {
            what: "write",
            path: path.clone(),
            source,
        })
    }

    /// These settings with what `changes` says, but for the moving itself.
    ///
    /// # Errors
    /// [`ValueError`] for the first value that makes no sense.
    pub fn changed(&self, changes: &DeviceChanges) -> Result<Self, ValueError> {
        let mut new = self.clone();
        new.space_bytes = changes.space_bytes.or(new.space_bytes);
        if let Some(dir) = &changes.dir {
            if !dir.is_absolute() {
                return Err(ValueError::Relative(dir.clone()));
            }
            new.dir = Some(dir.clone());
        }
        match changes.upload_bytes_per_second {
            Some(0) => new.upload = None,
            Some(slow) if slow < UPLOAD_MIN => return Err(ValueError::Slow),
            Some(rate) => new.upload = Some(rate),
            None => {}
        }
        if let Some(text) = &changes.hours {
            new.hours = hours(text)?;
        }
        new.metered = changes.metered.unwrap_or(new.metered);
        new.battery = changes.battery.unwrap_or(new.battery);
        new.enabled = changes.enabled.unwrap_or(new.enabled);
        new.leaving = changes.leaving.unwrap_or(new.leaving);
        Ok(new)
    }

    /// The hours as text.
    #[must_use]
    pub fn hours_text(&self) -> String {
        self.hours.map_or_else(always, |hours| hours.to_string())
    }

    /// Where what is held lies.
    #[must_use]
    pub fn shards_dir(&self, data: &Path) -> PathBuf {
        self.dir.clone().unwrap_or_else(|| data.join(SHARDS_DIR))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full() -> DeviceSettings {
        DeviceSettings {
            space_bytes: Some(10_000_000_000),
            dir: Some(PathBuf::from("/mnt/a \"b\"\\c")),
            upload: Some(2_000_000),
            hours: Some("22:00-06:30".parse().unwrap()),
            metered: When::Pause,
            battery: When::Allow,
            enabled: false,
            leaving: true,
            moved_from: Some(PathBuf::from("/old")),
        }
    }

    #[test]
    fn golden_text() {
        let want = "# Written by `ioex device`; see docs/cli.md.\n\
            version = 1\nspace_bytes = 10000000000\ndir = '/mnt/a \"b\"\\c'\nupload = \"2000000B/s\"\n\
            hours = \"22:00-06:30\"\nmetered = \"pause\"\nbattery = \"allow\"\nenabled = false\nleaving = true\n\
            moved_from = \"/old\"\n";
        assert_eq!(full().to_toml().unwrap(), want);
        assert_eq!(DeviceSettings::from_toml(want).unwrap(), full());
        assert_eq!(DeviceSettings::from_toml("version = 1").unwrap(), DeviceSettings::default());
        let by_hand =
            DeviceSettings::from_toml("version = 1\nspace_bytes = '10GB'\nupload = '2 MB/s'").unwrap();
        assert_eq!((by_hand.space_bytes, by_hand.upload), (Some(10_000_000_000), Some(2_000_000)));
    }

    #[test]
    fn settings_are_kept_and_bad_ones_are_no_defaults() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(DeviceSettings::load(dir.path()).unwrap(), DeviceSettings::default());
        full().save(dir.path()).unwrap();
        assert_eq!(DeviceSettings::load(dir.path()).unwrap(), full());
        DeviceSettings::default().save(dir.path()).unwrap();
        assert_eq!(DeviceSettings::load(dir.path()).unwrap(), DeviceSettings::default());
        for (bad, why) in [
            ("", "version"),
            ("version = 2\nnew = 1", "version 2"),
            ("version = 1\nspace = 5", "space"),
            ("version = 1\nspace_bytes = '5 potatoes'", "potatoes"),
            ("version = 1\nhours = '7-9'", "7-9"),
            ("version = 1\nupload = '0'", "device off"),
            ("version = 1\nmetered = 'maybe'", "maybe"),
            ("\u{0}", "line"),
        ] {
            fs::write(dir.path().join(DEVICE_FILE), bad).unwrap();
            let error = DeviceSettings::load(dir.path()).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(DEVICE_FILE), "{bad:?}: {error}");
        }
    }

    #[test]
    fn what_is_not_changed_stays() {
        let none = DeviceChanges::default();
        assert_eq!(full().changed(&none), Ok(full()));
        let some = DeviceChanges {
            upload_bytes_per_second: Some(0),
            hours: Some("always".to_owned()),
            enabled: Some(true),
            ..none.clone()
        };
        let want = DeviceSettings { upload: None, hours: None, enabled: true, ..full() };
        assert_eq!(full().changed(&some), Ok(want));
        let slow = DeviceChanges { upload_bytes_per_second: Some(5), ..none.clone() };
        assert_eq!(full().changed(&slow), Err(ValueError::Slow));
        let relative = DeviceChanges { dir: Some("here".into()), ..none };
        assert!(matches!(full().changed(&relative), Err(ValueError::Relative(_))));
    }

    #[test]
    fn hours_go_over_midnight() {
        let night: Hours = "22:00-6:30".parse().unwrap();
        assert_eq!(night.to_string(), "22:00-06:30");
        let inside = |h: Hours, hour: u16, minute: u16| h.contains(hour * 60 + minute);
        assert!(inside(night, 22, 0) && inside(night, 0, 0) && inside(night, 6, 29));
        assert!(!inside(night, 6, 30) && !inside(night, 21, 59) && !inside(night, 12, 0));
        let day: Hours = "08:00-24:00".parse().unwrap();
        assert!(inside(day, 8, 0) && inside(day, 23, 59) && !inside(day, 0, 0) && !inside(day, 7, 59));
        for bad in
            ["", "22", "22-6", "22:00", "22:60-06:00", "25:00-06:00", "24:01-6:00", "a:00-b:00", "+1:00-2:00"]
        {
            assert!(matches!(bad.parse::<Hours>(), Err(ValueError::Hours(_))), "{bad}");
        }
        assert!(matches!("7:00-07:00".parse::<Hours>(), Err(ValueError::NoHours(_))));
        assert!("0:00-24:00".parse::<Hours>().is_err());
        assert_eq!(hours("always"), Ok(None));
    }

    #[test]
    fn rates_as_people_write_them() {
        assert_eq!(rate("2MB/s"), Ok(Some(2_000_000)));
        assert_eq!(rate("512KiB"), Ok(Some(512 << 10)));
        assert_eq!(rate("unlimited"), Ok(None));
        assert_eq!(rate("0"), Err(ValueError::Slow));
        for bad in ["", "fast", "2MB/h", "-1"] {
            assert!(matches!(rate(bad), Err(ValueError::Rate(_))), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_hours_are_read_back(from in 0u16..1440, to in 0u16..1440, minute in 0u16..1440) {
            prop_assume!(from != to);
            let hours = Hours { from, to };
            prop_assert_eq!(hours.to_string().parse(), Ok(hours));
            let other = Hours { from: to, to: from };
            prop_assert!(hours.contains(minute) != other.contains(minute));
        }

        #[test]
        fn any_text_is_handled(text in ".{0,200}", start in prop::sample::select(vec!["", "version = 1\n"])) {
            let _ = DeviceSettings::from_toml(&format!("{start}{text}"));
            let _ = (hours(&text), rate(&text));
        }
    }
}
