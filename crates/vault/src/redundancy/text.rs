//! Redundancy as people write it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{InvalidRedundancy, Redundancy};

/// Protection that an owner asks for.
///
/// Text: `auto`, or what [`Redundancy`] is written as. In postcard: a zero byte, or a one and the
/// four numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// Whatever suits the devices that there are.
    #[default]
    Auto,
    /// These numbers, or what comes next to them.
    Exact(Redundancy),
}

/// A text that is no redundancy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseRedundancyError {
    /// Of another form.
    #[error(
        "`{0}` is no redundancy: write `replicas=3` for whole copies, or `rs=20/32/60/80` for a code with needed/repair/complete/made shards"
    )]
    Form(String),
    /// A part is no number from 0 to 255.
    #[error("`{0}` is no number of shards: write for example `replicas=3` or `rs=20/32/60/80`")]
    Number(String),
    /// The form is right, the numbers are not.
    #[error(transparent)]
    Invalid(#[from] InvalidRedundancy),
}

impl fmt::Display for Redundancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if Self::replicas(self.made) == Ok(*self) {
            write!(f, "replicas={}", self.made)
        } else {
            write!(f, "rs={}/{}/{}/{}", self.needed, self.repair_at, self.complete, self.made)
        }
    }
}

impl FromStr for Redundancy {
    type Err = ParseRedundancyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || ParseRedundancyError::Form(text.to_owned());
        let number = |part: &str| {
            part.trim().parse::<u8>().map_err(|_| ParseRedundancyError::Number(part.trim().to_owned()))
        };
        let (kind, numbers) = text.split_once('=').ok_or_else(form)?;
        match kind.trim() {
            "replicas" => Ok(Self::replicas(number(numbers)?)?),
            "rs" => {
                let parts = numbers.split('/').map(number).collect::<Result<Vec<_>, _>>()?;
                let &[k, m, o, n] = parts.as_slice() else { return Err(form()) };
                Ok(Self::new(k, m, o, n)?)
            }
            _ => Err(form()),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Exact(redundancy) => redundancy.fmt(f),
        }
    }
}

impl FromStr for Wanted {
    type Err = ParseRedundancyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim() == "auto" { Ok(Self::Auto) } else { text.parse().map(Self::Exact) }
    }
}

impl From<Redundancy> for Wanted {
    fn from(redundancy: Redundancy) -> Self {
        Self::Exact(redundancy)
    }
}

impl Serialize for Wanted {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            return s.collect_str(self);
        }
        match self {
            Self::Auto => None,
            Self::Exact(redundancy) => Some(*redundancy),
        }
        .serialize(s)
    }
}

impl<'de> Deserialize<'de> for Wanted {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
            return text.parse().map_err(serde::de::Error::custom);
        }
        Ok(Option::<Redundancy>::deserialize(d)?.map_or(Self::Auto, Self::Exact))
    }
}
