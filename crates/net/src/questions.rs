//! Questions between friends that the mesh carries and does not understand: what a program above it
//! makes of them is its own business, such as super nodes that watch over backups together.

use std::{pin::Pin, sync::Arc};

use ioex_base::Uid;

use crate::{
    door::Door,
    links::{LinkError, in_time},
    mesh::Mesh,
    proto::{ANSWER_MAX_BYTES, Answer, No, OPEN_MAX_BYTES, Open},
};

/// Longest question in bytes.
pub const QUESTION_MAX_BYTES: usize = 256 * 1024;
/// Longest reply in bytes.
pub const REPLY_MAX_BYTES: usize = ANSWER_MAX_BYTES - 16;
const _: () = assert!(QUESTION_MAX_BYTES + 16 < OPEN_MAX_BYTES);

/// A reply on its way.
pub type Replying = Pin<Box<dyn Future<Output = Result<Vec<u8>, No>> + Send>>;

/// Replies to friends. Called for friends only; which of them it serves is up to it.
pub trait Responder: Send + Sync + 'static {
    /// Replies with at most [`REPLY_MAX_BYTES`].
    fn reply(&self, from: Uid, question: Vec<u8>) -> Replying;
}

/// Why a friend did not reply.
#[derive(Debug, thiserror::Error)]
pub enum QuestionError {
    /// It cannot be reached or broke off.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// It said no.
    #[error("the friend refused: {0}")]
    No(#[from] No),
    /// The question is longer than [`QUESTION_MAX_BYTES`].
    #[error("a question has at most {QUESTION_MAX_BYTES} bytes")]
    TooLong,
}

impl Mesh {
    /// Lets `responder` reply to friends from now on. A second one is not taken; returns whether
    /// this one was.
    pub fn respond_with(&self, responder: Arc<dyn Responder>) -> bool {
        self.responder().set(responder).is_ok()
    }

    /// Asks a friend.
    ///
    /// # Errors
    /// [`QuestionError`].
    pub async fn ask_friend(&self, friend: Uid, question: Vec<u8>) -> Result<Vec<u8>, QuestionError> {
        if question.len() > QUESTION_MAX_BYTES {
            return Err(QuestionError::TooLong);
        }
        match in_time(self.links()?.ask(friend, Door::Friend, &Open::Question(question))).await? {
            Answer::Yes(reply) => Ok(reply),
            Answer::No(no) => Err(no.into()),
        }
    }

    /// What a friend's question comes to.
    pub(crate) async fn take_question(&self, from: Uid, question: Vec<u8>) -> Result<Vec<u8>, No> {
        if question.len() > QUESTION_MAX_BYTES {
            return Err(No::BadRequest);
        }
        let Some(responder) = self.responder().get().cloned() else { return Err(No::NotFound) };
        let reply = responder.reply(from, question).await?;
        if reply.len() > REPLY_MAX_BYTES { Err(No::Failed) } else { Ok(reply) }
    }
}
