//! A role's file: the `signed` part and signatures over its canonical form.

use std::collections::BTreeSet;

use data_encoding::HEXLOWER;
use ioex_base::{NodeKey, Uid};
use olpc_cjson::CanonicalFormatter;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::schema::{KeyId, Role, Root, Signed};

/// Most signatures that are looked at in one file: verifying costs time, and no role has more keys.
const SIGNATURES_MAX: usize = 64;

/// Why a file is no metadata of the role that it should be.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum MetadataError {
    /// Longer than anything of this role is (TUF: endless data attack).
    #[error("{role} metadata of {got} bytes is longer than the {max} that are allowed")]
    TooLong {
        /// Whose.
        role: Role,
        /// The bound in bytes.
        max: usize,
        /// What came, in bytes.
        got: usize,
    },
    /// Not JSON of the expected form.
    #[error("{role} metadata is malformed: {why}")]
    Malformed {
        /// Whose.
        role: Role,
        /// What is wrong with it.
        why: String,
    },
    /// Of a major version of the specification that this program does not follow.
    #[error("{role} metadata follows version {got} of TUF, this program follows 1: update it")]
    SpecVersion {
        /// Whose.
        role: Role,
        /// What it says.
        got: String,
    },
    /// Too few of the keys that the root names for this role have signed (TUF: arbitrary software attack).
    #[error("{role} metadata has {got} valid signatures of the {need} that it needs")]
    Signatures {
        /// Whose.
        role: Role,
        /// How many different keys must sign.
        need: usize,
        /// How many have.
        got: usize,
    },
}

/// One signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Signature {
    keyid: KeyId,
    sig: String,
}

/// A file whose signatures were not looked at yet. The `signed` part is kept as it came, members
/// that we do not know included, for they were signed too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    signatures: Vec<Signature>,
    signed: Value,
}

/// Canonical JSON as the TUF family writes it: members sorted, no spaces, strings in NFC.
pub(super) fn canonical<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, CanonicalFormatter::new()))?;
    Ok(bytes)
}

impl Envelope {
    /// Reads a file of `role`, without trusting anything in it.
    ///
    /// # Errors
    /// [`MetadataError::TooLong`], [`MetadataError::Malformed`].
    pub fn parse(role: Role, bytes: &[u8]) -> Result<Self, MetadataError> {
        let max = role.max_bytes();
        if bytes.len() > max {
            return Err(MetadataError::TooLong { role, max, got: bytes.len() });
        }
        let envelope: Self = serde_json::from_slice(bytes).map_err(|error| malformed(role, &error))?;
        if envelope.signatures.len() > SIGNATURES_MAX {
            let why =
                format!("{} signatures, at most {SIGNATURES_MAX} are looked at", envelope.signatures.len());
            return Err(MetadataError::Malformed { role, why });
        }
        Ok(envelope)
    }

    /// An unsigned file.
    ///
    /// # Errors
    /// [`MetadataError::Malformed`] for values that canonical JSON has no form for.
    pub fn draft<T: Signed>(signed: &T) -> Result<Self, MetadataError> {
        let signed = serde_json::to_value(signed).map_err(|error| malformed(T::ROLE, &error))?;
        Ok(Self { signatures: Vec::new(), signed })
    }

    /// Adds `key`'s signature, or replaces it.
    ///
    /// # Errors
    /// [`MetadataError::Malformed`] for values that canonical JSON has no form for.
    pub fn sign(&mut self, role: Role, key: &NodeKey) -> Result<(), MetadataError> {
        let message = canonical(&self.signed).map_err(|error| malformed(role, &error))?;
        let keyid = super::Key::of(&key.uid()).id();
        self.signatures.retain(|signature| signature.keyid != keyid);
        self.signatures.push(Signature { keyid, sig: HEXLOWER.encode(&key.sign(&message)) });
        Ok(())
    }

    /// Names keys that are to sign, by an empty signature each, as other programs for TUF do.
    pub fn invite(&mut self, keys: impl IntoIterator<Item = Uid>) {
        for uid in keys {
            let keyid = super::Key::of(&uid).id();
            if !self.signatures.iter().any(|signature| signature.keyid == keyid) {
                self.signatures.push(Signature { keyid, sig: String::new() });
            }
        }
    }

    /// Whether a key has signed; nothing when it was not invited either.
    #[must_use]
    pub fn signed_by(&self, key: &Uid) -> Option<bool> {
        let keyid = super::Key::of(key).id();
        let mut found = self.signatures.iter().filter(|signature| signature.keyid == keyid);
        found.next().map(|signature| !signature.sig.is_empty())
    }

    /// Leaves out whoever was invited and has not signed.
    pub fn close(&mut self) {
        self.signatures.retain(|signature| !signature.sig.is_empty());
    }

    /// How many different keys that `root` names for `role` have signed, and how many must.
    #[must_use]
    pub fn count(&self, role: Role, root: &Root) -> (usize, usize) {
        let Some((signers, need)) = root.signers(role) else {
            return (0, 1);
        };
        let Ok(message) = canonical(&self.signed) else {
            return (0, need);
        };
        // By key, not by name: one key under two names, or two signatures of one, count once.
        let mut valid: BTreeSet<Uid> = BTreeSet::new();
        for Signature { keyid, sig } in &self.signatures {
            let Some(uid) = signers.get(keyid.as_str()).filter(|uid| !valid.contains(uid)) else { continue };
            let bytes = HEXLOWER.decode(sig.as_bytes()).ok().and_then(|sig| sig.try_into().ok());
            if bytes.is_some_and(|sig| uid.verifies(&message, &sig)) {
                valid.insert(*uid);
            }
        }
        (valid.len(), need)
    }

    /// The signed part, if enough of the keys that `root` names for it signed.
    ///
    /// # Errors
    /// [`MetadataError`]; nothing is used before the signatures held.
    pub fn verify<T: Signed>(&self, root: &Root) -> Result<T, MetadataError> {
        let (got, need) = self.count(T::ROLE, root);
        if got < need {
            return Err(MetadataError::Signatures { role: T::ROLE, need, got });
        }
        self.read()
    }

    /// The signed part, whoever signed it: for the root that came with the device, for a root that is about
    /// to be compared with the one before it, and for a maker's own files.
    ///
    /// # Errors
    /// [`MetadataError::Malformed`], [`MetadataError::SpecVersion`].
    pub fn read<T: Signed>(&self) -> Result<T, MetadataError> {
        let value = T::deserialize(&self.signed).map_err(|error| malformed(T::ROLE, &error))?;
        if value.kind() != T::ROLE {
            let why = format!("it says that it is {}", value.kind());
            return Err(MetadataError::Malformed { role: T::ROLE, why });
        }
        let spec = value.spec_version();
        if spec != "1" && !spec.starts_with("1.") {
            let got = spec.chars().take(16).collect();
            return Err(MetadataError::SpecVersion { role: T::ROLE, got });
        }
        Ok(value)
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// [`MetadataError::Malformed`] for values that JSON has no form for.
    pub fn to_bytes(&self, role: Role) -> Result<Vec<u8>, MetadataError> {
        canonical(self).map_err(|error| malformed(role, &error))
    }
}

fn malformed(role: Role, error: &serde_json::Error) -> MetadataError {
    MetadataError::Malformed { role, why: error.to_string() }
}
