//! Bytes through a pipe between a command and its node: any frames, and every break of good ones.

#![no_main]

use std::io::Read;

use ioex_api::frames::{FrameReader, FrameWriter};
use libfuzzer_sys::fuzz_target;

/// What comes out, and whether it came to its end.
fn read(from: &[u8], step: usize) -> (Vec<u8>, bool) {
    let mut reader = FrameReader::new(from);
    let (mut out, mut block) = (Vec::new(), vec![0; step]);
    loop {
        match reader.read(&mut block) {
            Ok(0) => return (out, true),
            Ok(n) => out.extend_from_slice(&block[..n]),
            Err(_) => return (out, false),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let (out, _) = read(data, 100);
    assert!(out.len() <= data.len(), "no more comes out than went in");
    assert_eq!(out, read(data, 7).0);
    let (at, text) = data.split_first_chunk::<2>().unwrap_or((&[0; 2], data));
    let mut sent = Vec::new();
    let mut writer = FrameWriter::new(&mut sent);
    text.chunks(1 + usize::from(at[0])).for_each(|part| writer.write(part).unwrap());
    writer.finish().unwrap();
    assert_eq!(read(&sent, 64), (text.to_vec(), true));
    let cut = usize::from(u16::from_le_bytes(*at)) % sent.len();
    let (part, ended) = read(&sent[..cut], 64);
    assert!(!ended && text.starts_with(&part), "a break is noticed");
});
