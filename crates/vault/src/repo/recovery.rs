//! The recovery key: all that an owner has to keep to get everything back.
//!
//! Thirty-two random bytes, written down as twenty-four words (BIP 39, English list, whose last word
//! carries a checksum). Everything else of a repository follows from them: its identity, under which
//! its head is found, the secret for packing, the key that lets nodes read its shards, and the key
//! of the head. A new machine needs the words and the network.

use std::fmt;

use bip39::{Language, Mnemonic};
use ioex_base::{NodeKey, Uid};
use zeroize::{Zeroize as _, Zeroizing};

use crate::owner::OwnerKey;

const OWNER_CONTEXT: &str = "ioex 2026 recovery v1 owner";
const SIGNER_CONTEXT: &str = "ioex 2026 recovery v1 repository";
const READER_CONTEXT: &str = "ioex 2026 recovery v1 reader";
const HEAD_CONTEXT: &str = "ioex 2026 recovery v1 head";

/// Words of a recovery key.
pub const RECOVERY_WORDS: usize = 24;

/// An owner's recovery key. Wiped from memory when dropped, never printed by accident.
#[derive(Clone)]
pub struct RecoveryKey(Zeroizing<[u8; 32]>);

/// Words that are no recovery key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecoveryKeyError {
    /// Too few or too many.
    #[error("a recovery key has {RECOVERY_WORDS} words, these are {0}")]
    Count(usize),
    /// A word that is not in the list.
    #[error("word {place}, '{word}', is not in the list: look for a slip of the pen")]
    Word {
        /// Which, counting from 1.
        place: usize,
        /// The word.
        word: String,
    },
    /// All words are known, but they do not belong together.
    #[error("the words do not fit together: one of them is wrong, or their order is")]
    Checksum,
}

impl RecoveryKey {
    /// A new key from the operating system's randomness.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut())?;
        Ok(Self(bytes))
    }

    /// The key with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for a file that only the owner may read.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        self.0.clone()
    }

    /// The words to write down.
    ///
    /// # Panics
    /// Never: 32 bytes always make 24 words.
    #[must_use]
    pub fn words(&self) -> Zeroizing<String> {
        let mnemonic = Mnemonic::from_entropy_in(Language::English, self.0.as_ref());
        Zeroizing::new(mnemonic.expect("32 bytes are a length that BIP 39 knows").to_string())
    }

    /// The key that was written down as `words`, in any case and with any white space.
    ///
    /// # Errors
    /// [`RecoveryKeyError`], which says where to look for the mistake.
    pub fn from_words(words: &str) -> Result<Self, RecoveryKeyError> {
        let tidy = Zeroizing::new(words.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase());
        let count = tidy.split(' ').filter(|word| !word.is_empty()).count();
        if count != RECOVERY_WORDS {
            return Err(RecoveryKeyError::Count(count));
        }
        let unknown = tidy.split(' ').position(|word| Language::English.find_word(word).is_none());
        if let Some(place) = unknown {
            let word = tidy.split(' ').nth(place).unwrap_or_default().to_owned();
            return Err(RecoveryKeyError::Word { place: place + 1, word });
        }
        let mnemonic = Mnemonic::parse_in_normalized(Language::English, &tidy)
            .map_err(|_| RecoveryKeyError::Checksum)?;
        let (mut entropy, length) = mnemonic.to_entropy_array();
        let mut bytes = Zeroizing::new([0; 32]);
        let whole = length == bytes.len();
        bytes.iter_mut().zip(&entropy).for_each(|(to, from)| *to = *from);
        entropy.zeroize();
        if whole { Ok(Self(bytes)) } else { Err(RecoveryKeyError::Checksum) }
    }

    /// The keys that follow from it.
    #[must_use]
    pub fn keys(&self) -> RepoKeys {
        let derive = |context| Zeroizing::new(blake3::derive_key(context, self.0.as_ref()));
        RepoKeys {
            owner: OwnerKey::from_bytes(*derive(OWNER_CONTEXT)),
            signer: NodeKey::from_seed(*derive(SIGNER_CONTEXT)),
            reader: NodeKey::from_seed(*derive(READER_CONTEXT)),
            head: derive(HEAD_CONTEXT),
        }
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey(..)")
    }
}

/// The keys of a repository.
#[derive(Clone)]
pub struct RepoKeys {
    /// For packing and reading chunks.
    pub owner: OwnerKey,
    /// Signs the head; its public half names the repository.
    pub signer: NodeKey,
    /// Signs fetch grants; its public half stands in the leases.
    pub reader: NodeKey,
    /// Encrypts the head's body.
    pub(crate) head: Zeroizing<[u8; 32]>,
}

impl RepoKeys {
    /// The repository's name.
    #[must_use]
    pub fn repo(&self) -> Uid {
        self.signer.uid()
    }
}

impl fmt::Debug for RepoKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RepoKeys(of {})", self.repo())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Frozen: whoever wrote these words down must find the same repository.
    #[test]
    fn golden_words_and_identity() {
        let key = RecoveryKey::from_bytes([7; 32]);
        let words = key.words();
        assert_eq!(words.split(' ').count(), RECOVERY_WORDS);
        assert!(words.starts_with("alpha deal scrub"), "{}", *words);
        assert_eq!(key.keys().repo().to_string(), GOLDEN_REPO);
        assert_eq!(format!("{key:?}"), "RecoveryKey(..)");
    }

    const GOLDEN_REPO: &str = "vkonhqjclqzpr6phozsbjw4wuou6zsg3vjo22yhylkzyyg3dtdua";

    #[test]
    fn a_slip_of_the_pen_is_found() {
        let words = RecoveryKey::from_bytes([9; 32]).words();
        let with = |place: usize, word: &str| {
            let mut all: Vec<&str> = words.split(' ').collect();
            all[place] = word;
            RecoveryKey::from_words(&all.join(" ")).map(|_| ())
        };
        assert_eq!(with(4, "zzz"), Err(RecoveryKeyError::Word { place: 5, word: "zzz".into() }));
        assert_eq!(RecoveryKey::from_words("zoo zoo").map(|_| ()), Err(RecoveryKeyError::Count(2)));
        let other = if words.split(' ').nth(3) == Some("zoo") { "zone" } else { "zoo" };
        // One wrong word passes the 8-bit checksum once in 256 times; this one does not.
        assert_eq!(with(3, other), Err(RecoveryKeyError::Checksum));
    }

    proptest! {
        #[test]
        fn words_round_trip(bytes: [u8; 32]) {
            let key = RecoveryKey::from_bytes(bytes);
            let typed = key.words().to_uppercase().replace(' ', "\n  ");
            let back = RecoveryKey::from_words(&typed).unwrap();
            prop_assert_eq!(*back.to_bytes(), bytes);
        }

        #[test]
        fn any_text_is_handled(text in ".{0,200}") {
            let _ = RecoveryKey::from_words(&text);
        }
    }
}
