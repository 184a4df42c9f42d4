//! How much of an emulated process is the program's.
//!
//! qemu-user maps a program where its own machine would have it: low. The emulator itself, its libraries, heap
//! and translated code lie where this machine's kernel puts a 64-bit process, high. Pages are of one size on both.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// Programs of both kinds of ARM lie below (from 0, and from 0x55 << 32), everything of the emulator's above
/// (from 0x55 << 40).
const EMULATOR_FROM: u64 = 1 << 44;
/// A node that has nothing to do has settled after this.
pub(super) const SETTLE: Duration = Duration::from_secs(60);

/// Pages that a process has written, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// The emulated program's.
    pub(super) program: u64,
    /// The emulator's own.
    pub(super) emulator: u64,
}

impl Memory {
    /// Of a program that is emulated.
    pub(super) fn of_emulated(pid: u32) -> Result<Self> {
        let file = format!("/proc/{pid}/smaps");
        let maps = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
        let memory = parse(&maps).with_context(|| format!("{file} has an unexpected form"))?;
        ensure!(
            memory.program > 0 && memory.emulator > 0,
            "the emulator lays its memory out in another way: {memory:?}"
        );
        Ok(memory)
    }

    /// For a table, in bytes: the program's, and with the emulator's.
    pub(super) fn cell(self) -> String {
        format!("{} ({})", self.program, self.program + self.emulator)
    }

    pub(super) fn json(self) -> Value {
        json!({ "program_bytes": self.program, "with_emulator_bytes": self.program + self.emulator })
    }
}

/// Written pages below and above the border.
fn parse(maps: &str) -> Option<Memory> {
    let (mut program, mut emulator) = (0, 0);
    let mut start = None;
    for line in maps.lines() {
        let word = line.split_whitespace().next()?;
        if let Some((from, _)) = word.split_once('-') {
            start = Some(u64::from_str_radix(from, 16).ok()?);
        } else if let Some(rest) = line.strip_prefix("Private_Dirty:") {
            let bytes = rest.split_whitespace().next()?.parse::<u64>().ok()? * 1024;
            *(if start? < EMULATOR_FROM { &mut program } else { &mut emulator }) += bytes;
        }
    }
    Some(Memory { program, emulator })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_and_the_emulator_are_told_apart() {
        let maps = "5500020000-5500021000 rw-p 00000000 fe:00 1  /ioex\nPrivate_Dirty:  8 kB\n\
                    55c931b8f000-55c931b9b000 rw-p 0 fe:00 2 /usr/bin/qemu\nSize: 4 kB\nPrivate_Dirty:  48 kB\n\
                    40003000-40004000 rw-p 0 00:00 0\nPrivate_Dirty:  4 kB\n";
        assert_eq!(parse(maps), Some(Memory { program: 12 * 1024, emulator: 48 * 1024 }));
        assert_eq!(parse("Private_Dirty: 4 kB\n"), None);
    }

    #[test]
    fn a_process_that_is_not_emulated_is_refused() {
        assert!(Memory::of_emulated(std::process::id()).is_err());
    }
}
