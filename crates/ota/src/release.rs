//! What a maker says of one version, inside the signed targets metadata.

use std::{fmt, str::FromStr};

use ioex_base::{ContentAddress, Uid};
use serde::{Deserialize, Serialize};

use crate::rollout::Rollout;

/// Most images in one package: a device with more parts than that gets several channels.
pub const IMAGES_MAX: usize = 16;

/// Most matchers of one release.
pub const MATCHERS_MAX: usize = 16;

/// Longest name of a brand, model or image, in bytes.
pub const NAME_MAX_BYTES: usize = 64;

/// A version: up to four numbers, compared from the left, `2.10` above `2.9`. Missing ones are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub [u16; 4]);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d] = self.0;
        write!(f, "{a}.{b}.{c}")?;
        if d > 0 { write!(f, ".{d}") } else { Ok(()) }
    }
}

/// A text that is no version.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a version is one to four numbers up to 65535 with dots between them, such as 2.10.3")]
pub struct ParseVersionError;

impl FromStr for Version {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut numbers = [0; 4];
        let mut slots = numbers.iter_mut();
        for part in text.split('.') {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            let number = part.parse().ok().filter(|_| digits).ok_or(ParseVersionError)?;
            *slots.next().ok_or(ParseVersionError)? = number;
        }
        Ok(Self(numbers))
    }
}

impl Serialize for Version {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { self.0.serialize(s) }
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
        } else {
            <[u16; 4]>::deserialize(d).map(Self)
        }
    }
}

/// One image of a package. A package is its images one after the other, so it can be streamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Which slot pair of the device takes it, such as `rootfs`.
    pub name: String,
    /// Length in bytes.
    pub length: u64,
    /// BLAKE3 of the image.
    pub hash: ContentAddress,
}

/// Everything that decides whether a device takes a version, and how it gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Brand of the devices.
    pub brand: String,
    /// Model of the devices.
    pub model: String,
    /// Hardware revisions that it runs on; empty means all.
    #[serde(default)]
    pub hardware: Vec<u32>,
    /// The version.
    pub version: Version,
    /// The lowest version over which it may be installed; lower ones need a step between.
    #[serde(default)]
    pub follows: Version,
    /// Higher versions over which it may nevertheless be installed: the maker's signed permission
    /// to go back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub downgrade_from: Vec<Version>,
    /// BLAKE3 of the vault manifest under which the package lies in the network.
    pub manifest: ContentAddress,
    /// To whom that manifest is sealed: the public half of the key that the maker put into its devices.
    pub recipient: Uid,
    /// Whose vouchers count: super nodes that match devices with providers. Without one, every device
    /// goes to the nodes that carry the channel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matchers: Vec<Uid>,
    /// What the package consists of, in this order.
    pub images: Vec<Image>,
    /// Who gets it when; without it, everybody at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
}

/// The `custom` member of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Custom {
    /// Absent in packages of others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ioex: Option<Release>,
}

/// Why a release makes no sense, whoever signed it.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum InvalidRelease {
    /// No image, or too many.
    #[error("a package has 1 to {IMAGES_MAX} images, not {0}")]
    Images(usize),
    /// Two images for one slot pair.
    #[error("two images are called {0:?}")]
    Twice(String),
    /// A name that is empty, too long, or has characters that do not belong into names.
    #[error("{0:?} is no name: 1 to {NAME_MAX_BYTES} letters, digits, '-', '_', '.' or spaces")]
    Name(String),
    /// An image without content, or lengths that no number holds.
    #[error("image {0:?} has an impossible length")]
    Length(String),
    /// The target's length is not that of its images together.
    #[error("the package is said to have {target} bytes, its images have {images}")]
    Sum {
        /// What the target says.
        target: u64,
        /// All images together.
        images: u64,
    },
    /// Too many matchers.
    #[error("a release names at most {MATCHERS_MAX} matchers, not {0}")]
    Matchers(usize),
    /// Permission to go back from a version that is not higher.
    #[error("version {0} is no higher one: going back from it needs no permission")]
    Downgrade(Version),
}

/// Whether `name` may stand for a brand, model or image: it becomes part of file names and tables.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let fine = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ' ');
    !name.is_empty()
        && name.len() <= NAME_MAX_BYTES
        && name.chars().all(fine)
        && !name.starts_with(['.', ' '])
}

impl Release {
    /// Length of the package in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.images.iter().fold(0, |sum, image| image.length.saturating_add(sum))
    }

    /// What the package consists of, as one name: the same for the same images in the same order.
    #[must_use]
    pub fn package(&self) -> ContentAddress {
        let mut hasher = blake3::Hasher::new_derive_key("ioex 2026 update package");
        for image in &self.images {
            hasher.update(&(image.name.len() as u64).to_le_bytes());
            hasher.update(image.name.as_bytes());
            hasher.update(&image.length.to_le_bytes());
            hasher.update(image.hash.as_bytes());
        }
        hasher.finalize().into()
    }

    /// Whether a device with this hardware revision may run it.
    #[must_use]
    pub fn runs_on(&self, hardware: u32) -> bool {
        self.hardware.is_empty() || self.hardware.contains(&hardware)
    }

    /// Looks for contradictions.
    ///
    /// # Errors
    /// [`InvalidRelease`].
    pub fn check(&self, target_length: u64) -> Result<(), InvalidRelease> {
        self.check_terms()?;
        let mut images = 0_u64;
        for image in &self.images {
            let sum = images.checked_add(image.length).filter(|_| image.length > 0);
            images = sum.ok_or_else(|| InvalidRelease::Length(image.name.clone()))?;
        }
        if images != target_length {
            return Err(InvalidRelease::Sum { target: target_length, images });
        }
        Ok(())
    }

    /// Looks for contradictions in what is known before the package is packed: everything but lengths and hashes.
    ///
    /// # Errors
    /// [`InvalidRelease`].
    pub fn check_terms(&self) -> Result<(), InvalidRelease> {
        if self.images.is_empty() || self.images.len() > IMAGES_MAX {
            return Err(InvalidRelease::Images(self.images.len()));
        }
        if self.matchers.len() > MATCHERS_MAX {
            return Err(InvalidRelease::Matchers(self.matchers.len()));
        }
        let names = self.images.iter().map(|image| &image.name);
        if let Some(name) = names.chain([&self.brand, &self.model]).find(|name| !is_name(name)) {
            return Err(InvalidRelease::Name(name.chars().take(NAME_MAX_BYTES).collect()));
        }
        for (i, image) in self.images.iter().enumerate() {
            if self.images[..i].iter().any(|other| other.name == image.name) {
                return Err(InvalidRelease::Twice(image.name.clone()));
            }
        }
        match self.downgrade_from.iter().find(|from| **from <= self.version) {
            Some(from) => Err(InvalidRelease::Downgrade(*from)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number_and_round_trip() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert!(version("2.10") > version("2.9.9"));
        assert_eq!(version("3"), version("3.0.0"));
        assert_eq!(version("1.2.3.4").to_string(), "1.2.3.4");
        for wrong in ["", "1.", "1..2", "+1", "1.2.3.4.5", "65536", "1.a"] {
            assert_eq!(wrong.parse::<Version>(), Err(ParseVersionError), "{wrong}");
        }
    }
}
