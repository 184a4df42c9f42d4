//! The Reed-Solomon code of a group: parity shards from data shards, and lost shards from any `k`.
//!
//! The code is that of the crate `reed-solomon-simd` 3 (an FFT over GF(2^16), known as
//! Leopard-RS), with these rules around it, which are part of the stored format:
//!
//! - data shards may differ in length; each counts as filled up with zeros to the length of
//!   parity shards ([`parity_bytes`]): the longest data shard, rounded up to a multiple of 64
//!   bytes, the unit in which the code works;
//! - shard indexes run through data first, then parity;
//! - the parity bytes depend on both counts, data and parity: whoever decodes must know both.
//!
//! The golden test freezes the bytes, so that no release of the crate changes the format unseen.
//!
//! Each block of 64 bytes is a code word of its own. So long shards are worked through in stripes of
//! [`STRIPE_BYTES`], and what is needed beside the shards in memory stays small: for at most 96
//! shards, 128 stripes (8 MiB) to decode and 8 MiB more to re-compute parity, whatever the length
//! of the shards. The peak is thus the shards that come in, those that go out, and 16 MiB.
//!
//! Nothing here notices wrong bytes: a shard that was changed gives wrong shards. Whoever reads a
//! shard compares it with its content address before, and the results with theirs after.

use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

use crate::redundancy::REDUNDANCY_MAX;

/// The code works on blocks of this many bytes.
const BLOCK_BYTES: usize = 64;

/// How much of every shard is worked on at once, in bytes: of 128 shards, little enough for the
/// memory of a small node, and enough that the fixed cost of a decoding (about a quarter of a
/// millisecond) is small beside its work.
const STRIPE_BYTES: usize = 64 * 1024;

const _: () = assert!(STRIPE_BYTES.is_multiple_of(BLOCK_BYTES), "stripes do not cut blocks");

/// Why a group cannot be encoded or reconstructed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// No data shard, or only empty ones.
    #[error("a group without data has no code")]
    Empty,
    /// More shards than a group has.
    #[error("a group has at most {REDUNDANCY_MAX} shards, not {data} and {parity}")]
    TooMany {
        /// Data shards.
        data: usize,
        /// Parity shards.
        parity: usize,
    },
    /// Too many shards are missing: come again with more.
    #[error("{need} shards of the group are needed and {have} are there")]
    TooFew {
        /// How many suffice.
        need: usize,
        /// How many came.
        have: usize,
    },
    /// A shard that the group does not have.
    #[error("the group has {shards} shards, thus none with index {index}")]
    Index {
        /// The index.
        index: usize,
        /// Data and parity shards.
        shards: usize,
    },
    /// A shard came twice.
    #[error("shard {0} came twice")]
    Twice(usize),
    /// A shard of another length than it must have.
    #[error("shard {index} has {want} bytes, not {got}")]
    Length {
        /// Its index.
        index: usize,
        /// Its length in bytes.
        want: usize,
        /// What came, in bytes.
        got: usize,
    },
    /// The code refused what was checked before: a bug.
    #[error("the code failed: {0}")]
    Code(String),
}

impl From<reed_solomon_simd::Error> for CodeError {
    fn from(error: reed_solomon_simd::Error) -> Self {
        Self::Code(error.to_string())
    }
}

/// Length of each parity shard in bytes, for data shards of these lengths: the longest, rounded up to
/// a multiple of 64.
#[must_use]
pub fn parity_bytes(data_lens: &[usize]) -> usize {
    data_lens.iter().copied().max().unwrap_or(0).next_multiple_of(BLOCK_BYTES)
}

/// The parity shards of a group, all of [`parity_bytes`]. None when `parity` is zero.
///
/// # Errors
/// [`CodeError::Empty`], [`CodeError::TooMany`].
pub fn encode<S: AsRef<[u8]>>(data: &[S], parity: usize) -> Result<Vec<Vec<u8>>, CodeError> {
    let lens: Vec<usize> = data.iter().map(|shard| shard.as_ref().len()).collect();
    let group = Group::new(&lens, parity)?;
    let data: Vec<&[u8]> = data.iter().map(AsRef::as_ref).collect();
    let mut out = vec![Vec::with_capacity(group.bytes); parity];
    if parity > 0 {
        let mut encoder = Encoder::new(&group)?;
        for stripe in group.stripes() {
            encoder.stripe(
                &stripe,
                |index| part(data[index], &stripe),
                |index, bytes| {
                    out[index].extend_from_slice(bytes);
                },
            )?;
        }
    }
    Ok(out)
}

/// The shards with the indexes `want`, in that order: data shards cut to their lengths, parity
/// shards as [`encode`] made them. `present` are the shards at hand; any as many as there are data
/// shards suffice.
///
/// # Errors
/// [`CodeError`].
pub fn reconstruct<S: AsRef<[u8]>>(
    data_lens: &[usize],
    present: impl IntoIterator<Item = (usize, S)>,
    parity: usize,
    want: &[usize],
) -> Result<Vec<Vec<u8>>, CodeError> {
    let group = Group::new(data_lens, parity)?;
    let mut shards: Vec<Option<S>> = (0..group.shards()).map(|_| None).collect();
    for (index, shard) in present {
        group.check(index, shard.as_ref().len())?;
        if shards[index].replace(shard).is_some() {
            return Err(CodeError::Twice(index));
        }
    }
    let have: Vec<Option<&[u8]>> = shards.iter().map(|s| s.as_ref().map(AsRef::as_ref)).collect();
    group.enough(&have)?;
    if let Some(index) = want.iter().copied().find(|index| *index >= group.shards()) {
        return Err(CodeError::Index { index, shards: group.shards() });
    }
    let mut out: Vec<Vec<u8>> = want.iter().map(|index| Vec::with_capacity(group.len(*index))).collect();
    let mut decoder = Decoder::new(&group)?;
    let parity_wanted = want.iter().any(|index| *index >= group.data());
    let mut encoder = if parity_wanted { Some(Encoder::new(&group)?) } else { None };
    for stripe in group.stripes() {
        let restored = decoder.stripe(&stripe, &have)?;
        let data = |index: usize| match have[index] {
            Some(shard) => part(shard, &stripe),
            None => &restored[index],
        };
        for (index, out) in want.iter().zip(&mut out) {
            if *index < group.data() {
                let left = group.len(*index) - out.len();
                let bytes = data(*index);
                out.extend_from_slice(&bytes[..bytes.len().min(left)]);
            }
        }
        if let Some(encoder) = &mut encoder {
            encoder.stripe(&stripe, data, |index, bytes| {
                let index = group.data() + index;
                for (_, out) in want.iter().zip(&mut out).filter(|(wanted, _)| **wanted == index) {
                    out.extend_from_slice(bytes);
                }
            })?;
        }
    }
    Ok(out)
}

/// The shape of a group.
struct Group<'a> {
    data_lens: &'a [usize],
    parity: usize,
    /// Length of every shard as the code sees it.
    bytes: usize,
}

/// Part of every shard: from, to, in bytes.
struct Stripe {
    from: usize,
    to: usize,
}

impl<'a> Group<'a> {
    fn new(data_lens: &'a [usize], parity: usize) -> Result<Self, CodeError> {
        let data = data_lens.len();
        if data.saturating_add(parity) > usize::from(REDUNDANCY_MAX) {
            return Err(CodeError::TooMany { data, parity });
        }
        let bytes = parity_bytes(data_lens);
        if bytes == 0 {
            return Err(CodeError::Empty);
        }
        Ok(Self { data_lens, parity, bytes })
    }

    fn data(&self) -> usize {
        self.data_lens.len()
    }

    fn shards(&self) -> usize {
        self.data() + self.parity
    }

    /// Length of a shard in bytes.
    fn len(&self, index: usize) -> usize {
        self.data_lens.get(index).copied().unwrap_or(self.bytes)
    }

    fn check(&self, index: usize, got: usize) -> Result<(), CodeError> {
        if index >= self.shards() {
            return Err(CodeError::Index { index, shards: self.shards() });
        }
        let want = self.len(index);
        if want == got { Ok(()) } else { Err(CodeError::Length { index, want, got }) }
    }

    fn enough(&self, have: &[Option<&[u8]>]) -> Result<(), CodeError> {
        let (need, have) = (self.data(), have.iter().flatten().count());
        if have < need { Err(CodeError::TooFew { need, have }) } else { Ok(()) }
    }

    fn stripes(&self) -> impl Iterator<Item = Stripe> + use<> {
        let bytes = self.bytes;
        (0..bytes)
            .step_by(STRIPE_BYTES)
            .map(move |from| Stripe { from, to: (from + STRIPE_BYTES).min(bytes) })
    }
}

impl Stripe {
    fn bytes(&self) -> usize {
        self.to - self.from
    }
}

/// What a shard has of a stripe; the rest of it counts as zeros.
fn part<'s>(shard: &'s [u8], stripe: &Stripe) -> &'s [u8] {
    &shard[stripe.from.min(shard.len())..stripe.to.min(shard.len())]
}

/// Hands a part to the code, filled up with zeros.
fn filled<'s>(bytes: &'s [u8], length: usize, space: &'s mut Vec<u8>) -> &'s [u8] {
    if bytes.len() == length {
        return bytes;
    }
    space.clear();
    space.extend_from_slice(bytes);
    space.resize(length, 0);
    space
}

struct Encoder {
    code: ReedSolomonEncoder,
    data: usize,
    parity: usize,
    space: Vec<u8>,
}

impl Encoder {
    fn new(group: &Group<'_>) -> Result<Self, CodeError> {
        let (data, parity) = (group.data(), group.parity);
        let code = ReedSolomonEncoder::new(data, parity, STRIPE_BYTES.min(group.bytes))?;
        Ok(Self { code, data, parity, space: Vec::new() })
    }

    /// Encodes one stripe; `take` is called with the index of each parity shard and its bytes.
    fn stripe<'s>(
        &mut self,
        stripe: &Stripe,
        data: impl Fn(usize) -> &'s [u8],
        mut take: impl FnMut(usize, &[u8]),
    ) -> Result<(), CodeError> {
        self.code.reset(self.data, self.parity, stripe.bytes())?;
        for index in 0..self.data {
            self.code.add_original_shard(filled(data(index), stripe.bytes(), &mut self.space))?;
        }
        let result = self.code.encode()?;
        result.recovery_iter().enumerate().for_each(|(index, bytes)| take(index, bytes));
        Ok(())
    }
}

struct Decoder {
    /// None when there is no parity to decode with.
    code: Option<ReedSolomonDecoder>,
    data: usize,
    parity: usize,
    space: Vec<u8>,
}

impl Decoder {
    fn new(group: &Group<'_>) -> Result<Self, CodeError> {
        let (data, parity) = (group.data(), group.parity);
        let new = || ReedSolomonDecoder::new(data, parity, STRIPE_BYTES.min(group.bytes));
        let code = if parity == 0 { None } else { Some(new()?) };
        Ok(Self { code, data, parity, space: Vec::new() })
    }

    /// The stripe of every data shard that is not at hand; an empty one for the others.
    fn stripe(&mut self, stripe: &Stripe, have: &[Option<&[u8]>]) -> Result<Vec<Vec<u8>>, CodeError> {
        let mut out = vec![Vec::new(); self.data];
        let Some(code) = &mut self.code else { return Ok(out) };
        if have[..self.data].iter().all(Option::is_some) {
            return Ok(out);
        }
        code.reset(self.data, self.parity, stripe.bytes())?;
        // Not more than needed: each further one costs time and changes nothing.
        let given = have.iter().enumerate().filter_map(|(index, shard)| Some((index, (*shard)?)));
        for (index, shard) in given.take(self.data) {
            let bytes = filled(part(shard, stripe), stripe.bytes(), &mut self.space);
            match index.checked_sub(self.data) {
                None => code.add_original_shard(index, bytes)?,
                Some(parity) => code.add_recovery_shard(parity, bytes)?,
            }
        }
        for (index, bytes) in code.decode()?.restored_original_iter() {
            out[index].extend_from_slice(bytes);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
