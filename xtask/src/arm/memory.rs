//! How much of an emulated process is the program's.
//!
//! qemu-user maps a program where its own machine would have it: low. The emulator itself, its libraries, heap
//! and translated code lie where this machine's kernel puts a 64-bit process, high. Pages are of one size on both.

use std::fs;

use anyhow::{Context, Result, ensure};

/// Programs of both kinds of ARM lie below (from 0, and from 0x55 << 32), everything of the emulator's above
/// (from 0x55 << 40).
const EMULATOR_FROM: u64 = 1 << 44;

/// Pages that the emulated program has written, in bytes.
pub(super) fn of_emulated(pid: u32) -> Result<u64> {
    let file = format!("/proc/{pid}/smaps");
    let maps = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    let (program, emulator) = parse(&maps).with_context(|| format!("{file} has an unexpected form"))?;
    ensure!(program > 0 && emulator > 0, "the emulator lays its memory out in another way");
    Ok(program)
}

/// Written pages below and above the border, in bytes.
fn parse(maps: &str) -> Option<(u64, u64)> {
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
    Some((program, emulator))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_and_the_emulator_are_told_apart() {
        let maps = "5500020000-5500021000 rw-p 00000000 fe:00 1  /ioex\nPrivate_Dirty:  8 kB\n\
                    55c931b8f000-55c931b9b000 rw-p 0 fe:00 2 /usr/bin/qemu\nSize: 4 kB\nPrivate_Dirty:  48 kB\n\
                    40003000-40004000 rw-p 0 00:00 0\nPrivate_Dirty:  4 kB\n";
        assert_eq!(parse(maps), Some((12 * 1024, 48 * 1024)));
        assert_eq!(parse("Private_Dirty: 4 kB\n"), None);
    }

    #[test]
    fn a_process_that_is_not_emulated_is_refused() {
        assert!(of_emulated(std::process::id()).is_err());
    }
}
