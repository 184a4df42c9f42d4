//! Pairing: a short code shown on one device and typed on another makes both friends.
//!
//! The code never travels. Both ends run SPAKE2 with it (a PAKE: whoever does not know the code
//! learns nothing that lets it test guesses offline), bound to both UIDs, which the connection
//! has proved. The one who typed the code proves first, so that each guess is one counted try;
//! after [`TRIES_MAX`] wrong ones the code is locked. A code works once and ends by itself.

use std::fmt::Write as _;

use ioex_base::{Uid, UnixSeconds, limits};
use spake2::{Ed25519Group, Identity, Password, Spake2};

use super::tidy_text;
use crate::{
    clock,
    door::Door,
    frame,
    links::{LinkError, broken},
    mesh::Mesh,
    proto::{ANSWER_MAX_BYTES, Answer, No, Open, PairAnswer, PairMessage},
    random,
    state::StateError,
};

/// Wrong codes until the code is locked. With [`CODE_DIGITS`] decimal digits a guesser succeeds
/// with probability 5 in 10^8.
pub const TRIES_MAX: u32 = 5;
/// Digits of a code: as many as a person types without a mistake.
pub const CODE_DIGITS: usize = 8;
/// Longest life of a code.
pub const TTL_MAX_SECONDS: u64 = 24 * 3600;
/// A SPAKE2 message: a group element and the side's byte.
const SPAKE_BYTES: usize = 33;
const PROOF_TYPIST: &[u8] = b"typist";
const PROOF_DEVICE: &[u8] = b"device";
const LINK_PREFIX: &str = "ioex:pair?uid=";

/// Why pairing did not work.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The link or code is mistyped.
    #[error("this is no pairing link: it looks like {LINK_PREFIX}…&code=12345678")]
    Link,
    /// A code is digits.
    #[error("a pairing code has {CODE_DIGITS} digits")]
    Code,
    /// Paired with oneself.
    #[error("a node does not pair with itself")]
    Own,
    /// The other node said no.
    #[error("{0}")]
    No(#[from] No),
    /// The other node could not be asked.
    #[error(transparent)]
    Unreachable(#[from] LinkError),
    /// The other node does not know the code itself.
    #[error("the other node could not prove that it knows the code: check its UID")]
    NotProved,
    /// The friendship could not be written.
    #[error(transparent)]
    State(#[from] StateError),
}

/// An open window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairWindow {
    /// What to type.
    pub code: String,
    /// The link for a QR code.
    pub link: String,
    /// When it ends.
    pub expires: UnixSeconds,
}

/// The device's side of the window. Pure.
#[derive(Debug, Default)]
pub(crate) struct Window {
    open: Option<OpenWindow>,
}

#[derive(Debug)]
struct OpenWindow {
    code: String,
    expires: UnixSeconds,
    tries: u32,
}

impl Window {
    pub(crate) fn open(&mut self, code: String, expires: UnixSeconds) {
        self.open = Some(OpenWindow { code, expires, tries: 0 });
    }

    /// Whether anybody may try. A locked window says so until it ends, so that the owner's phone
    /// gets a clear answer.
    pub(crate) fn is_open(&mut self, now: UnixSeconds) -> bool {
        if self.open.as_ref().is_some_and(|w| now > w.expires) {
            self.open = None;
        }
        self.open.is_some()
    }

    /// Counts a try before anything is computed, and hands out the code for it.
    pub(crate) fn begin_try(&mut self, now: UnixSeconds) -> Result<String, No> {
        if !self.is_open(now) {
            return Err(No::NotFound);
        }
        let Some(window) = self.open.as_mut() else { return Err(No::NotFound) };
        if window.tries >= TRIES_MAX {
            return Err(No::CodeLocked);
        }
        window.tries += 1;
        Ok(window.code.clone())
    }

    /// The code was right: it is used up.
    pub(crate) fn succeed(&mut self) {
        self.open = None;
    }

    /// What a wrong try is told.
    pub(crate) fn wrong(&self) -> No {
        match &self.open {
            Some(w) if w.tries >= TRIES_MAX => No::CodeLocked,
            _ => No::WrongCode,
        }
    }
}

/// Digits without the dashes and spaces that people add.
fn normal(code: &str) -> Option<String> {
    let digits: String = code.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
    (digits.len() == CODE_DIGITS && digits.bytes().all(|b| b.is_ascii_digit())).then_some(digits)
}

/// A uniform code: rejection sampling over 32 random bits.
fn new_code() -> String {
    let span = 10u32.pow(CODE_DIGITS as u32);
    loop {
        let n = u32::from_le_bytes(random::bytes());
        if n < u32::MAX / span * span {
            return format!("{:0width$}", n % span, width = CODE_DIGITS);
        }
    }
}

/// Reads `ioex:pair?uid=…&code=…`.
pub(crate) fn parse_link(link: &str) -> Option<(Uid, String)> {
    let (uid, code) = link.trim().strip_prefix(LINK_PREFIX)?.split_once("&code=")?;
    Some((uid.parse().ok()?, normal(code)?))
}

fn identities(typist: &Uid, device: &Uid) -> (Identity, Identity) {
    (Identity::new(typist.as_bytes()), Identity::new(device.as_bytes()))
}

/// Shows knowledge of the shared key without showing the key.
fn proof(key: &[u8], role: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("ioex 2026 pairing proof");
    hasher.update(key).update(role);
    *hasher.finalize().as_bytes()
}

/// Compares in constant time.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    blake3::Hash::from_bytes(*a) == blake3::Hash::from_bytes(*b)
}

impl Mesh {
    /// Opens a pairing window on this node; an earlier one ends.
    #[must_use]
    pub fn pair_show(&self, ttl_seconds: u64) -> PairWindow {
        let code = new_code();
        let expires = clock::unix().plus(ttl_seconds.min(TTL_MAX_SECONDS));
        self.pair_window().open(code.clone(), expires);
        let mut link = String::from(LINK_PREFIX);
        // Writing to a string does not fail.
        let _ = write!(link, "{}&code={code}", self.uid());
        PairWindow { code, link, expires }
    }

    /// Uses a code shown by another node: `target` is its link, or its UID beside the code.
    ///
    /// # Errors
    /// [`PairError`]; [`No::WrongCode`] and [`No::CodeLocked`] are the counted ones.
    pub async fn pair_use(&self, target: &str, code: Option<&str>) -> Result<Uid, PairError> {
        let (uid, code) = match code {
            Some(code) => {
                let uid = target.trim().parse().map_err(|_| PairError::Link)?;
                (uid, normal(code).ok_or(PairError::Code)?)
            }
            None => parse_link(target).ok_or(PairError::Link)?,
        };
        if uid == self.uid() {
            return Err(PairError::Own);
        }
        let (ours, theirs) = identities(&self.uid(), &uid);
        let (spake, message) =
            Spake2::<Ed25519Group>::start_a(&Password::new(code.as_bytes()), &ours, &theirs);
        let start = Open::Pair(PairMessage::Start { spake: message, name: self.config().name.clone() });
        let links = self.links()?;
        let (conn, mut send, mut recv) = links.open(uid, Door::Public, &start).await?;
        let answer: Answer<PairAnswer> =
            frame::read(&mut recv, ANSWER_MAX_BYTES).await.map_err(|e| broken(&conn, e))?;
        let answer = match answer {
            Answer::Yes(answer) => answer,
            Answer::No(no) => return Err(no.into()),
        };
        let key = spake.finish(&answer.spake).map_err(|_| PairError::NotProved)?;
        frame::write(&mut send, &proof(&key, PROOF_TYPIST)).await.map_err(|e| broken(&conn, e))?;
        let theirs: Answer<[u8; 32]> =
            frame::read(&mut recv, ANSWER_MAX_BYTES).await.map_err(|e| broken(&conn, e))?;
        match theirs {
            Answer::No(no) => Err(no.into()),
            Answer::Yes(theirs) if !same(&theirs, &proof(&key, PROOF_DEVICE)) => Err(PairError::NotProved),
            Answer::Yes(_) => {
                self.befriend(uid, None).await?;
                Ok(uid)
            }
        }
    }

    /// The device's side of one try.
    pub(crate) async fn serve_pairing(
        &self,
        from: Uid,
        PairMessage::Start { spake: theirs, name }: PairMessage,
        send: &mut iroh::endpoint::SendStream,
        recv: &mut iroh::endpoint::RecvStream,
    ) -> Result<(), frame::FrameError> {
        let now = clock::unix();
        let begun = self.pair_window().begin_try(now);
        let code = match begun {
            Ok(code) if theirs.len() == SPAKE_BYTES => code,
            Ok(_) => return frame::write(send, &Answer::<PairAnswer>::No(No::BadRequest)).await,
            Err(no) => return frame::write(send, &Answer::<PairAnswer>::No(no)).await,
        };
        let (typist, device) = identities(&from, &self.uid());
        let (spake, message) =
            Spake2::<Ed25519Group>::start_b(&Password::new(code.as_bytes()), &typist, &device);
        let Ok(key) = spake.finish(&theirs) else {
            return frame::write(send, &Answer::<PairAnswer>::No(No::BadRequest)).await;
        };
        frame::write(send, &Answer::Yes(PairAnswer { spake: message })).await?;
        let shown: [u8; 32] = frame::read(recv, ANSWER_MAX_BYTES).await?;
        if !same(&shown, &proof(&key, PROOF_TYPIST)) {
            let no = self.pair_window().wrong();
            if no == No::CodeLocked {
                self.warn(format!("{TRIES_MAX} wrong pairing codes came in: the code is locked"));
            }
            return frame::write(send, &Answer::<[u8; 32]>::No(no)).await;
        }
        self.pair_window().succeed();
        let name = tidy_text(&name, limits::LABEL_MAX_BYTES);
        if let Err(e) = self.befriend(from, Some(name)).await {
            self.warn(format!("a pairing could not be kept: {e}"));
            return frame::write(send, &Answer::<[u8; 32]>::No(No::Failed)).await;
        }
        frame::write(send, &Answer::Yes(proof(&key, PROOF_DEVICE))).await
    }
}

#[cfg(test)]
mod tests {
    use ioex_base::NodeKey;

    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    #[test]
    fn five_wrong_codes_lock_the_window() {
        let mut window = Window::default();
        assert_eq!(window.begin_try(NOW), Err(No::NotFound));
        window.open("12345678".into(), NOW.plus(60));
        for n in 1..=TRIES_MAX {
            assert_eq!(window.begin_try(NOW), Ok("12345678".into()));
            let want = if n < TRIES_MAX { No::WrongCode } else { No::CodeLocked };
            assert_eq!(window.wrong(), want);
        }
        assert_eq!(window.begin_try(NOW), Err(No::CodeLocked), "even the right code is too late");
        assert_eq!(window.begin_try(NOW.plus(61)), Err(No::NotFound));
    }

    #[test]
    fn a_code_works_once() {
        let mut window = Window::default();
        window.open("12345678".into(), NOW.plus(60));
        assert!(window.begin_try(NOW).is_ok());
        window.succeed();
        assert_eq!(window.begin_try(NOW), Err(No::NotFound));
    }

    #[test]
    fn links_and_codes_are_read_as_people_write_them() {
        let uid = NodeKey::from_seed([1; 32]).uid();
        let link = format!("{LINK_PREFIX}{uid}&code=12345678");
        assert_eq!(parse_link(&link), Some((uid, "12345678".into())));
        assert_eq!(normal("1234-56 78"), Some("12345678".into()));
        assert_eq!(normal("1234567"), None);
        assert_eq!(normal("1234567x"), None);
        assert!(normal(&new_code()).is_some());
    }

    #[test]
    fn only_the_same_code_and_the_same_two_nodes_agree() {
        let (a, b, c) = (
            NodeKey::from_seed([1; 32]).uid(),
            NodeKey::from_seed([2; 32]).uid(),
            NodeKey::from_seed([3; 32]).uid(),
        );
        let run = |code_a: &str, code_b: &str, seen_by_b: &Uid| {
            let (ia, ib) = identities(&a, &b);
            let (sa, ma) = Spake2::<Ed25519Group>::start_a(&Password::new(code_a.as_bytes()), &ia, &ib);
            let (ia, ib) = identities(seen_by_b, &b);
            let (sb, mb) = Spake2::<Ed25519Group>::start_b(&Password::new(code_b.as_bytes()), &ia, &ib);
            assert_eq!(ma.len(), SPAKE_BYTES);
            let (ka, kb) = (sa.finish(&mb).unwrap(), sb.finish(&ma).unwrap());
            same(&proof(&ka, PROOF_TYPIST), &proof(&kb, PROOF_TYPIST))
        };
        assert!(run("12345678", "12345678", &a));
        assert!(!run("12345678", "12345679", &a));
        assert!(!run("12345678", "12345678", &c));
        let key = [7; 32];
        assert!(!same(&proof(&key, PROOF_TYPIST), &proof(&key, PROOF_DEVICE)), "no reflection");
    }
}
