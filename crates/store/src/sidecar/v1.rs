//! Version 1, frozen: `marker (1) | checksum (8) | postcard of Record`, the checksum being the
//! beginning of the BLAKE3 hash of the postcard bytes. It notices damage, not forgery: whoever can
//! write this file can delete the shard as well.

use ioex_base::{Uid, UnixSeconds, wire};
use serde::{Deserialize, Serialize};

use super::{Sidecar, SidecarError};
use crate::{LEASES_PER_SHARD_MAX, Lease};

pub(super) const MARKER: u8 = 1;
const CHECKSUM_BYTES: usize = 8;
/// Two identities and three varints of at most ten bytes.
const LEASE_MAX_BYTES: usize = 32 + 32 + 3 * 10;
const RECORD_MAX_BYTES: usize = 10 + 10 + LEASES_PER_SHARD_MAX * LEASE_MAX_BYTES;
pub(super) const MAX_BYTES: usize = 1 + CHECKSUM_BYTES + RECORD_MAX_BYTES;

#[derive(Serialize, Deserialize)]
struct Record {
    len_bytes: u64,
    leases: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    placer: Uid,
    reader: Uid,
    bytes: u64,
    stored: UnixSeconds,
    expires: UnixSeconds,
}

impl From<&Lease> for Entry {
    fn from(l: &Lease) -> Self {
        Self { placer: l.placer, reader: l.reader, bytes: l.bytes, stored: l.stored, expires: l.expires }
    }
}

impl From<Entry> for Lease {
    fn from(e: Entry) -> Self {
        Self { placer: e.placer, reader: e.reader, bytes: e.bytes, stored: e.stored, expires: e.expires }
    }
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut out = [0; CHECKSUM_BYTES];
    blake3::Hasher::new().update(body).finalize_xof().fill(&mut out);
    out
}

pub(super) fn encode(sidecar: &Sidecar) -> Vec<u8> {
    let leases = sidecar.leases.iter().map(Entry::from).collect();
    let body = wire::encode(&Record { len_bytes: sidecar.len_bytes, leases });
    let mut out = vec![MARKER];
    out.extend_from_slice(&checksum(&body));
    out.extend_from_slice(&body);
    out
}

pub(super) fn decode(bytes: &[u8]) -> Result<Sidecar, SidecarError> {
    let rest = bytes.get(1..).ok_or(SidecarError::Damaged)?;
    let (sum, body) = rest.split_at_checked(CHECKSUM_BYTES).ok_or(SidecarError::Damaged)?;
    if sum != checksum(body) {
        return Err(SidecarError::Damaged);
    }
    let record: Record = wire::decode(body, RECORD_MAX_BYTES).map_err(|_| SidecarError::Damaged)?;
    let count = record.leases.len();
    if count == 0 || count > LEASES_PER_SHARD_MAX {
        return Err(SidecarError::Damaged);
    }
    Ok(Sidecar { len_bytes: record.len_bytes, leases: record.leases.into_iter().map(Lease::from).collect() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lease(placer: [u8; 32], reader: [u8; 32], numbers: [u64; 3]) -> Lease {
        Lease {
            placer: Uid::from_bytes(placer),
            reader: Uid::from_bytes(reader),
            bytes: numbers[0],
            stored: UnixSeconds(numbers[1]),
            expires: UnixSeconds(numbers[2]),
        }
    }

    #[test]
    fn golden_bytes() {
        let sidecar = Sidecar { len_bytes: 300, leases: vec![lease([2; 32], [3; 32], [300, 5, 10_000])] };
        let mut body = vec![0xac, 0x02, 1]; // varint 300, one lease
        body.extend([2; 32]);
        body.extend([3; 32]);
        body.extend([0xac, 0x02, 5, 0x90, 0x4e]);
        let mut want = vec![1];
        want.extend(&blake3::hash(&body).as_bytes()[..8]);
        want.extend(&body);
        assert_eq!(sidecar.encode(), want);
    }

    #[test]
    fn every_change_of_a_byte_is_noticed() {
        let sidecar = Sidecar { len_bytes: 9, leases: vec![lease([2; 32], [3; 32], [9, 1, 2])] };
        let bytes = sidecar.encode();
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 1;
            assert!(Sidecar::decode(&bad).is_err(), "byte {i}");
            assert!(Sidecar::decode(&bytes[..i]).is_err(), "cut at {i}");
        }
        let mut newer = bytes;
        newer[0] = 9;
        assert_eq!(Sidecar::decode(&newer), Err(SidecarError::Version(9)));
    }

    proptest! {
        #[test]
        fn round_trips(
            len_bytes: u64,
            leases in prop::collection::vec(any::<([u8; 32], [u8; 32], [u64; 3])>(), 1..LEASES_PER_SHARD_MAX),
        ) {
            let leases = leases.into_iter().map(|(p, r, n)| lease(p, r, n)).collect();
            let sidecar = Sidecar { len_bytes, leases };
            let bytes = sidecar.encode();
            prop_assert!(bytes.len() <= MAX_BYTES);
            prop_assert_eq!(Sidecar::decode(&bytes), Ok(sidecar));
        }

        #[test]
        fn any_bytes_are_handled(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Sidecar::decode(&body);
            let mut sealed = vec![MARKER];
            sealed.extend(checksum(&body));
            sealed.extend(&body);
            let _ = Sidecar::decode(&sealed);
        }
    }
}
